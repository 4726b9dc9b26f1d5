#!/usr/bin/env python3
"""A long life under retention: many hourly states of a dump, forgotten and pruned by the default policy once a day.

    benches/retention_soak [--states 2000] [--mb 10] [--work DIR] [--results DIR] [--minutes N]

What is done so far is kept in DIR after each simulated day: a run that was ended, by --minutes or otherwise, goes on when it is
started again with the same options, and what it says at the end is about the whole. --states may grow in between.

Prints once a simulated week: bytes stored, bytes decoded for a restore of the newest state, peak memory of backup and
prune. At the end: bytes against a fresh repository of the kept states, bytes rewritten for each byte freed, and every
kept state restored and compared.
"""

import argparse
import datetime
import hashlib
import json
import os
import pickle
import random
import shutil
import sys
import time

from measure import run, tree_size
from tools import Holdfast

START = datetime.datetime(2026, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)
WORDS = [hashlib.sha256(str(n).encode()).hexdigest()[:3 + n % 8] for n in range(4000)]


class Table:
    """Rows of text; `hour` changes about 0.7 % of them, all over the table, inserts some and deletes fewer."""

    def __init__(self, bytes_wanted, seed=1):
        self.rng, self.rows, self.next_id = random.Random(seed), [], 1
        size = 0
        while size < bytes_wanted:
            self.rows.append(self.row())
            size += len(self.rows[-1])

    def row(self):
        self.next_id += 1
        text = " ".join(self.rng.choices(WORDS, k=12))
        return f"{self.next_id}\t{self.rng.getrandbits(48):x}\t{text}\t{self.rng.randrange(10000)}\n"

    def hour(self):
        count = len(self.rows)
        for _ in range(count * 5 // 1000):
            self.rows[self.rng.randrange(count)] = self.row()
        for _ in range(count // 1000):
            self.rows.append(self.row())
        for _ in range(count // 1000):
            self.rows[self.rng.randrange(len(self.rows))] = ""

    def write(self, path):
        with open(path, "w", encoding="ascii") as file:
            file.writelines(self.rows)
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def result(done):
    return [json.loads(line) for line in done["stdout"].splitlines() if '"result"' in line][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=2000)
    parser.add_argument("--mb", type=float, default=10)
    parser.add_argument("--work", default="/tmp/holdfast-soak")
    parser.add_argument("--results")
    parser.add_argument("--minutes", type=float)
    args = parser.parse_args()
    began = time.monotonic()
    tool, fresh = Holdfast(args.work), Holdfast(os.path.join(args.work, "fresh"))
    state, saved = os.path.join(tool.work, "state"), os.path.join(tool.work, f"progress-{args.mb}")
    if os.path.exists(saved):
        with open(saved, "rb") as file:
            first, table, digests, written, freed, peak, prune_cpu = pickle.load(file)
        known = json.loads(run([tool.binary, "snapshots", "--json"], tool.env, cwd=tool.work)["stdout"])["snapshots"]
        # what was saved since then is saved again
        for name in (s["id"] for s in known if s["id"] not in digests):
            run([tool.binary, "remove", "--yes", name], tool.env, cwd=tool.work)
        print(f"going on after {first} states", flush=True)
    else:
        tool.prepare()
        first, table, digests, written, freed, prune_cpu = 0, Table(args.mb * 1e6), {}, 0, 0, 0.0
        peak = {"backup": 0.0, "prune": 0.0}

    def hf(which, *command, stdin=None):
        return run([which.binary] + list(command), which.env, stdin=stdin, cwd=which.work)

    def store(which, number, path):
        when = (START + datetime.timedelta(hours=number)).isoformat()
        return hf(which, "backup", "--stdin", "--stdin-filename", "app.dump", "-q", "--time", when, stdin=path)

    def decoded_share(name):
        target = os.path.join(tool.work, "out")
        shutil.rmtree(target, ignore_errors=True)
        done = hf(tool, "restore", name, "--target", target, "--json")
        with open(os.path.join(target, "app.dump"), "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digests[name][0]:
                raise SystemExit(f"snapshot {name} differs")
        return Holdfast._decoded(done) / os.path.getsize(os.path.join(target, "app.dump")), done["rss_mb"]

    for number in range(first, args.states):
        if number:
            table.hour()
        digest = table.write(state)
        done = store(tool, number, state)
        name = done["stdout"].strip()
        digests[name] = (digest, number)
        peak["backup"] = max(peak["backup"], done["rss_mb"])
        if number % 24 == 23 or number == args.states - 1:
            hf(tool, "forget", "--yes", "-q")
            done = hf(tool, "prune", "--yes", "--json")
            report = result(done)
            written, freed = written + report["written_bytes"], freed + report["removed_bytes"]
            peak["prune"], prune_cpu = max(peak["prune"], done["rss_mb"]), prune_cpu + done["cpu"]
        if number % 168 == 167:
            share, rss = decoded_share(name)
            print(f"hour {number + 1}: {tree_size(tool.repo)[0] / 1e6:.2f} MB stored, decoded {share:.2f} x, restore {rss} MB, "
                  f"peaks {peak}, prune {prune_cpu:.1f} s CPU so far", flush=True)
        if number % 24 == 23:
            with open(saved + ".new", "wb") as file:
                pickle.dump((number + 1, table, digests, written, freed, peak, prune_cpu), file)
            os.replace(saved + ".new", saved)
            if args.minutes and time.monotonic() - began > args.minutes * 60 and number + 1 < args.states:
                print(f"{number + 1} of {args.states} states: start it again to go on", flush=True)
                sys.exit(3)
    kept = json.loads(hf(tool, "snapshots", "--json")["stdout"])["snapshots"]
    kept = sorted((s["id"] for s in kept), key=lambda name: digests[name][1])
    shares = [decoded_share(name)[0] for name in kept]
    hf(tool, "verify", "--read-data")
    stored = tree_size(tool.repo)[0]
    fresh.prepare()
    out = os.path.join(tool.work, "again")
    for name in kept:
        run([tool.binary, "dump", name, "app.dump"], tool.env, stdout=out, cwd=tool.work)
        store(fresh, digests[name][1], out)
    row = {"states": args.states, "kept": len(kept), "stored": stored, "fresh": tree_size(fresh.repo)[0],
           "decoded_newest": shares[-1], "decoded_worst": max(shares), "peaks_mb": peak, "prune_cpu": prune_cpu,
           "written": written, "removed": freed, "rewritten_per_freed": written / max(freed - written, 1)}
    print(json.dumps(row, indent=1))
    print(f"stored / fresh = {stored / row['fresh']:.3f}")
    if args.results:
        os.makedirs(args.results, exist_ok=True)
        with open(os.path.join(args.results, "retention-soak.json"), "w", encoding="ascii") as file:
            json.dump(row, file, indent=1)
    shutil.rmtree(args.work, ignore_errors=True)


if __name__ == "__main__":
    main()
