"""Text that looks and compresses like source code (about 4x by `zstd -3`), from a random stream.

What belongs here: one file's lines and how a release edits them. What does not: trees on disk.
"""

from words import Words

# %s is a name of the file.
_SHAPES = [
    "def %s_%s(self, %s=None):", "    if %s.%s is None:", "        return self.%s.%s", "    for %s in self.%s.items():",
    "        self.%s[%s] = value", "    %s = getattr(%s, 'default')", "class %s(Base%s):", "from %s import %s", "        %s.append(%s)",
    "    try:", "    except ValueError as error:", "    return %s", "", "", "", "    with self.%s.lock(%s) as guard:",
    "        assertEqual(%s, self.%s)", "        raise TypeError('unexpected %s for %s')", "    else:", "        continue",
    "    if not isinstance(%s, str):", "        yield %s, None", "    @property", "    # The %s is checked by %s.",
]
_SLOTS = [shape.count("%s") for shape in _SHAPES]


class SourceText:
    """Files of lines in the shapes above; names are drawn per file, as in code."""

    def __init__(self, seed):
        self.words = Words(seed, 8000)
        self.rng = self.words.rng

    def lines(self, count, names):
        """`count` lines over `names`, frequent ones first."""
        shapes = self.rng.choices(range(len(_SHAPES)), k=count)
        weights = self._weights(len(names))
        pool = iter(self.rng.choices(names, cum_weights=weights, k=3 * count))
        return [_SHAPES[s] % tuple(next(pool) for _ in range(_SLOTS[s])) if _SLOTS[s] else _SHAPES[s] for s in shapes]

    def _weights(self, count):
        total, out = 0.0, []
        for rank in range(count):
            total += 1.0 / (rank + 1.5)
            out.append(total)
        return out

    def names(self, nbytes):
        """The vocabulary of one file: a few dozen words and compounds."""
        words = self.words.words(max(8, min(150, nbytes // 160)))
        return [w if i % 3 else w + "_" + words[i // 2] for i, w in enumerate(words)]

    def file(self, nbytes):
        """The lines of one file of about `nbytes`."""
        names, lines, size = self.names(nbytes), [], 0
        while size < nbytes:
            more = self.lines(max(1, (nbytes - size) // 24), names)
            lines += more
            size += sum(map(len, more)) + len(more)
        return lines

    def edit(self, lines):
        """A release's edit: a few hunks replaced, inserted or deleted."""
        names = self.names(3000)
        for _ in range(self.rng.randint(1, 6)):
            at, count = self.rng.randrange(len(lines) + 1), self.rng.randint(0, 4)
            lines[at:at + count] = self.lines(self.rng.randint(1, 8), names)
        return lines

    def path(self):
        """A relative path, two to five deep."""
        parts = [self.words.vocabulary[self.rng.randrange(40)] for _ in range(self.rng.randint(1, 4))]
        ending = self.rng.choice(["py", "c", "h", "txt", "js", "rs"])
        return "/".join(parts + ["%s_%s.%s" % (self.words.words(1)[0], self.words.hexes(3), ending)])
