#!/usr/bin/env python3
"""Memory and time of the commands on a repository of 16 million chunks and 10,000 snapshots.

    benches/large [--work DIR] [--snapshots 10000] [--results DIR] [--keep]

The repository (1.5 GB and 16 GB of holes) is made below DIR by `benches/large_repository`, without encryption, so that no key
derivation is in the figures; with --keep it stays and the next run begins with a copy of it. DIR may be on a tmpfs: what is
measured is CPU and memory. "cold" runs have neither catalog nor index cache. Ends with 1 when a bound is missed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys

from measure import run, tree_size

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RSS_MB_MAX = 100
LIST_SECONDS_MAX = 0.1
FORGET_SECONDS_MAX = 0.05


class Large:
    """The repository and the commands on it."""

    def __init__(self, work):
        self.binary, self.work = os.environ["HOLDFAST_BIN"], work
        self.repo, self.local = os.path.join(work, "repo"), os.path.join(work, "local")
        self.env = dict(os.environ, HOME=work, XDG_CACHE_HOME=self.local + "/cache", XDG_STATE_HOME=self.local + "/state",
                        XDG_CONFIG_HOME=work + "/config", HOLDFAST_REPOSITORY=self.repo, TMPDIR=work, LC_ALL="C.UTF-8")
        for name in ("HOLDFAST_CONFIG", "HOLDFAST_PROFILE", "HOLDFAST_PASSWORD", "HOLDFAST_KEY_FILE"):
            self.env.pop(name, None)
        self.rows, self.missed = [], []

    def make(self, snapshots):
        """Fills a new repository, with the program of `benches/large_repository`."""
        os.makedirs(self.work, exist_ok=True)
        run([self.binary, "init", "-q", "--insecure-no-encryption"], self.env, cwd=self.work)
        own = os.environ.get("HOLDFAST_LARGE_BIN")
        command = [own] if own else ["cargo", "bench", "--locked", "--bench", "large_repository", "--"]
        subprocess.run(command + [self.repo, str(snapshots)], cwd=TOP, check=True)

    def cold(self):
        shutil.rmtree(self.local, ignore_errors=True)

    def do(self, label, *arguments, stdin=None, seconds_max=None, times=1):
        """Runs one command, the quickest of `times`, and keeps the row."""
        runs = [run([self.binary, *arguments], self.env, stdin=stdin, cwd=self.work) for _ in range(times)]
        best = min(runs, key=lambda done: done["wall"])
        row = {"label": label, "wall": best["wall"], "cpu": best["cpu"], "rss_mb": max(done["rss_mb"] for done in runs)}
        self.rows.append(row)
        print(f"{label:44} {row['wall']:8.3f} s {row['cpu']:8.3f} s CPU {row['rss_mb']:7.1f} MB", flush=True)
        if row["rss_mb"] > RSS_MB_MAX:
            self.missed.append(f"{label}: {row['rss_mb']} MB, more than {RSS_MB_MAX}")
        if seconds_max and min(row["wall"], row["cpu"]) > seconds_max:
            self.missed.append(f"{label}: {row['wall']} s, more than {seconds_max}")
        return best


def copy(source, to):
    """Holes stay holes."""
    subprocess.run(["cp", "-a", "--sparse=always", source, to], check=True)


def result(done):
    return [json.loads(line) for line in done["stdout"].splitlines() if '"result"' in line][-1]


def measure(large):
    """Everything in order: what reads, what hides one snapshot, what frees one, what frees most."""
    text = os.path.join(large.work, "small.txt")
    with open(text, "w", encoding="ascii") as file:
        file.writelines(f"{n} {n * n % 9973}\n" for n in range(100_000))
    ids = json.loads(run([large.binary, "snapshots", "--json"], large.env, cwd=large.work)["stdout"])["snapshots"]
    print(f"{len(ids)} snapshots, {tree_size(large.repo)[0] / 1e6:.0f} MB", flush=True)
    middle = ids[len(ids) // 2]["id"]
    small = ["backup", "--stdin", "--stdin-filename", "small.txt", "-q"]
    large.cold()
    large.do("snapshots, cold", "snapshots")
    large.do("snapshots", "snapshots", seconds_max=LIST_SECONDS_MAX, times=5)
    large.do("snapshots --json", "snapshots", "--json", times=3)
    large.do("backup of 1 MB, cold", *small, stdin=text)
    large.do("backup of 1 MB", *small, stdin=text)
    large.do("verify", "verify")
    large.do("prune --dry-run", "prune", "--dry-run")
    large.cold()
    large.do("prune --dry-run, cold", "prune", "--dry-run")
    large.do("prune --dry-run again", "prune", "--dry-run")
    large.do("forget of one", "forget", middle, "--yes", seconds_max=FORGET_SECONDS_MAX)
    done = large.do("prune of one", "prune", "--yes", "--json")
    print("  ", {key: result(done)[key] for key in ("records_merged", "packs_rewritten", "written_bytes", "removed_bytes")})
    large.do("prune of nothing", "prune", "--yes")
    large.do("forget by policy", "forget", "--yes", "--keep-hourly", "24", "--keep-daily", "7", "--keep-weekly", "4",
             "--keep-monthly", "12", "--keep-last", "1")
    done = large.do("prune of most", "prune", "--yes", "--json")
    print("  ", {key: result(done)[key] for key in ("records_merged", "packs_rewritten", "written_bytes", "removed_bytes")})
    large.do("verify after it", "verify")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default="/var/tmp/holdfast-bench-large")
    parser.add_argument("--snapshots", type=int, default=10_000)
    parser.add_argument("--results")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    kept = os.path.join(args.work, f"kept-{args.snapshots}")
    large = Large(os.path.join(args.work, "work"))
    large.cold()
    shutil.rmtree(large.work, ignore_errors=True)
    if os.path.isdir(kept):
        copy(kept, large.work)
    else:
        large.make(args.snapshots)
        if args.keep:
            copy(large.work, kept)
    measure(large)
    if args.results:
        os.makedirs(args.results, exist_ok=True)
        with open(os.path.join(args.results, "large.json"), "w", encoding="ascii") as file:
            json.dump(large.rows, file, indent=1)
    shutil.rmtree(large.work if args.keep else args.work, ignore_errors=True)
    for line in large.missed:
        print("MISSED", line)
    sys.exit(1 if large.missed else 0)


if __name__ == "__main__":
    main()
