#!/usr/bin/env python3
"""Workload stream: one long stream on stdout, never on disk: rows of prose with counters, about 3x compressible.

    stream.py [--bytes 4294967296] [--seed 1] > ...
"""

import argparse
import sys

from words import Words


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=4 << 30)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    text, out, left, row = Words(args.seed), sys.stdout.buffer, args.bytes, 0
    pool = [text.prose(40).encode() for _ in range(20000)]  # sentences repeat, rows do not
    while left > 0:
        lines = []
        for _ in range(2000):
            row += 1
            lines.append(b"%d\t%016x\t%s\n" % (row, text.rng.getrandbits(64), pool[text.rng.randrange(len(pool))]))
        piece = b"".join(lines)[:left]
        out.write(piece)
        left -= len(piece)
    out.flush()


if __name__ == "__main__":
    main()
