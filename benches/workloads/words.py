"""Text with the entropy of real prose: Zipf-distributed words of an invented language, from a seed.

What belongs here: words, names, sentences, hex tokens. What does not: tables, files, databases.
Invariant: the same seed gives the same text on every machine and Python version from 3.9 on.
"""

import itertools
import random

_SYLLABLES = [a + b for a in "b c d f g h j k l m n p r s t v w z br cl dr fl gr pl st tr sh ch".split()
              for b in "a e i o u ai ea ou an en in on er ar or st nd".split()]


class Words:
    """A vocabulary and a random stream over it."""

    def __init__(self, seed, size=30000):
        self.rng = random.Random(seed)
        vocabulary_rng = random.Random(7)  # the language itself does not depend on the seed
        seen = {}
        while len(seen) < size:
            syllables = 1 + min(int(vocabulary_rng.expovariate(0.9)), 4)
            word = "".join(vocabulary_rng.choice(_SYLLABLES) for _ in range(syllables))
            seen.setdefault(word)
        # Frequent words are short in every language; a light sort by length is enough.
        self.vocabulary = sorted(seen, key=lambda w: len(w) + vocabulary_rng.random() * 6)
        self.weights = list(itertools.accumulate(1.0 / (rank + 2.7) for rank in range(size)))

    def words(self, count):
        """`count` words, Zipf-distributed."""
        return self.rng.choices(self.vocabulary, cum_weights=self.weights, k=count)

    def sentence(self, count):
        """One line of prose of `count` words."""
        text = " ".join(self.words(max(count, 1)))
        return text[0].upper() + text[1:] + "."

    def prose(self, count):
        """Several sentences with `count` words in all."""
        words, out, at = self.words(count), [], 0
        while at < count:
            step = self.rng.randint(6, 22)
            part = " ".join(words[at:at + step])
            out.append(part[0].upper() + part[1:] + self.rng.choice(".....?!"))
            at += step
        return " ".join(out)

    def name(self):
        """A person's name: two words of the rarer half."""
        first, last = self.rng.randrange(2000), self.rng.randrange(12000)
        return self.vocabulary[first].capitalize() + " " + self.vocabulary[last].capitalize()

    def hexes(self, nbytes):
        """A random token: incompressible but for its alphabet."""
        return "%0*x" % (nbytes * 2, self.rng.getrandbits(nbytes * 8))
