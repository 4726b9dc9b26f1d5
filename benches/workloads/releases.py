#!/usr/bin/env python3
"""Workload releases: successive releases of one code base, each extracted to a folder of its own.

    releases.py --out DIR [--releases 10] [--synthetic] [--files 3000] [--seed 1]

By default ten consecutive Django source releases from the Python package index through pip (no install, nothing built).
Where the index refuses, or with --synthetic, releases of an invented code base: about a quarter of the files edited,
some added, moved and deleted from one to the next.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile

from source_text import SourceText

DJANGO = ["4.2", "4.2.1", "4.2.2", "4.2.3", "4.2.4", "4.2.5", "4.2.6", "4.2.7", "5.0", "5.0.1"]


def from_index(out, count):
    """Downloads the releases; False when that is not possible here."""
    incoming = os.path.join(out, "incoming")
    os.makedirs(incoming, exist_ok=True)
    try:
        for number, version in enumerate(DJANGO[:count]):
            done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                                   "--no-binary", ":all:", "-d", incoming, "Django==" + version])
            name = next((n for n in os.listdir(incoming) if n.endswith("-%s.tar.gz" % version)), None)
            if done.returncode != 0 or name is None:
                return False
            target = os.path.join(out, "release-%02d" % number)
            with tarfile.open(os.path.join(incoming, name)) as archive:
                archive.extractall(target + ".part")
            # One top folder with the version in its name: what is deployed is its content.
            os.rename(os.path.join(target + ".part", os.listdir(target + ".part")[0]), target)
            os.rmdir(target + ".part")
        return True
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def synthetic(out, count, files, seed):
    text = SourceText(seed)
    r = text.rng
    tree = {text.path(): text.file(int(r.lognormvariate(8.3, 1.1))) for _ in range(files)}
    stamps = dict.fromkeys(tree, 1772409600)
    for number in range(count):
        if number:
            for path in r.sample(sorted(tree), len(tree) // 4):
                tree[path], stamps[path] = text.edit(tree[path]), 1772409600 + number * 86400
            for path in r.sample(sorted(tree), max(1, len(tree) // 100)):
                lines = tree.pop(path)
                if r.random() < 0.6:  # moved; else deleted
                    moved = text.path()
                    tree[moved], stamps[moved] = lines, 1772409600 + number * 86400
            for _ in range(max(1, files // 60)):
                path = text.path()
                tree[path], stamps[path] = text.file(int(r.lognormvariate(8.3, 1.1))), 1772409600 + number * 86400
        root = os.path.join(out, "release-%02d" % number)
        for path, lines in tree.items():
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w") as file:
                file.write("\n".join(lines) + "\n")
            os.utime(full, (stamps[path], stamps[path]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--releases", type=int, default=10)
    parser.add_argument("--synthetic", action="store_true")
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    kind = "synthetic"
    if not args.synthetic and from_index(args.out, args.releases):
        kind = "Django " + ", ".join(DJANGO[:args.releases])
    else:
        for name in os.listdir(args.out):
            if name.startswith("release-"):
                shutil.rmtree(os.path.join(args.out, name))
        synthetic(args.out, args.releases, args.files, args.seed)
    print(kind)
    with open(os.path.join(args.out, "workload.json"), "w") as out:
        json.dump({"workload": "releases", "kind": kind, "arguments": vars(args)}, out, indent=1)


if __name__ == "__main__":
    main()
