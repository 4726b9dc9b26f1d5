#!/usr/bin/env python3
"""Workload tree: one tree of many small source files: sizes log-normal as in a kernel tree, some binary files.

    tree.py --out DIR [--files 80000] [--bytes 1000000000] [--seed 1]

Writes DIR/tree: source-like text that compresses about 4x, one file in a hundred incompressible, no two files equal.
"""

import argparse
import json
import os

from source_text import SourceText

START_SECONDS = 1772409600


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--files", type=int, default=80000)
    parser.add_argument("--bytes", type=int, default=1000000000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    text = SourceText(args.seed)
    r = text.rng
    sizes = [r.lognormvariate(8.4, 1.35) for _ in range(args.files)]
    factor = args.bytes / sum(sizes)
    root = os.path.join(args.out, "tree")
    os.makedirs(root, exist_ok=True)
    for number, size in enumerate(sizes):
        path = os.path.join(root, text.path())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        nbytes = int(size * factor)
        if r.random() < 0.01:
            body = r.randbytes(nbytes)  # images and archives among the sources
        else:
            body = ("\n".join(text.file(nbytes)) + "\n").encode()
        with open(path, "wb") as out:
            out.write(body)
        os.chmod(path, 0o755 if r.random() < 0.02 else 0o644)
        stamp = (START_SECONDS - r.randrange(40000000)) * 10**9 + r.randrange(10**6) * 1000
        os.utime(path, ns=(stamp, stamp))
        if r.random() < 0.002:
            link = path + ".link"
            os.symlink(os.path.basename(path), link)
        if number % 10000 == 9999:
            print("%d files" % (number + 1), flush=True)
    with open(os.path.join(args.out, "workload.json"), "w") as out:
        json.dump({"workload": "tree", "arguments": vars(args)}, out, indent=1)


if __name__ == "__main__":
    main()
