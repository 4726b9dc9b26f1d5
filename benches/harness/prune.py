#!/usr/bin/env python3
"""Retention and prune beside the peers: a week of hourly states thinned to 24 hourly, 7 daily, 4 weekly.

    benches/prune --states DIR [--work DIR] [--results DIR] [--tools holdfast,restic,borg,rustic] [--first-kept] [--limit N]

Every tool stores every state of DIR in order, an hour apart; then snapshots are forgotten by the same policy and the
repository is pruned. Measured: CPU, wall and memory of forgetting and pruning, bytes before and after, dead bytes left
(as the tool says), bytes after a full prune, bytes of a fresh repository that holds only what was kept, restores of
the newest and the oldest kept before and after. Every restore is compared.
"""

import argparse
import datetime
import filecmp
import glob
import json
import os
import shutil

from measure import run, tree_size
from tools import Borg, Holdfast, Restic, Rustic

START = datetime.datetime(2026, 1, 5, 0, 30, tzinfo=datetime.timezone.utc)
KEEP = ["--keep-hourly", "24", "--keep-daily", "7", "--keep-weekly", "4"]


def hour(number):
    return START + datetime.timedelta(hours=number)


class PruneHoldfast(Holdfast):
    """holdfast: forget, prune, prune --full."""

    def store(self, number, path, tags):
        command = [self.binary, "backup", "--stdin", "--stdin-filename", "app.dump", "-q", "--time", hour(number).isoformat()]
        for tag in tags:
            command += ["--tag", tag]
        self.snapshots.append(run(command, self.env, stdin=path, cwd=self.work)["stdout"].strip())

    def forget(self, first_kept):
        tag = ["--keep-tag", "first"] if first_kept else []
        done = run([self.binary, "forget", "--yes", "--json"] + KEEP + tag, self.env, cwd=self.work)
        kept = json.loads(run([self.binary, "snapshots", "--json"], self.env, cwd=self.work)["stdout"])["snapshots"]
        return done, {snapshot["id"] for snapshot in kept}

    def prune(self, *flags):
        done = run([self.binary, "prune", "--yes", "--json"] + list(flags), self.env, cwd=self.work)
        report = [json.loads(line) for line in done["stdout"].splitlines() if '"result"' in line][-1]
        return done, report

    def dead(self):
        report = self.prune("--dry-run")[1]
        return report["dead_bytes"], report["stored_bytes"]


class PruneRestic(Restic):
    """restic: forget, prune with its default limits, then without any."""

    def store(self, number, path, tags):
        time = hour(number).strftime("%Y-%m-%d %H:%M:%S")
        tags = [part for tag in tags for part in ("--tag", tag)]
        self._remember(run(self.base + ["backup", "--json", "-q", "--stdin", "--stdin-filename", "app.dump", "--time", time]
                           + tags, self.env, stdin=path))

    def forget(self, first_kept):
        tag = ["--keep-tag", "first"] if first_kept else []
        done = run(self.base + ["forget", "-q", "--group-by", "host"] + KEEP + tag, self.env)
        kept = json.loads(run(self.base + ["snapshots", "--json"], self.env)["stdout"])
        # older versions say short ids when they save
        return done, {entry[key] for entry in kept for key in ("id", "short_id")}

    def prune(self, *flags):
        limit = ["--max-unused", "0"] if "--full" in flags else []
        return run(self.base + ["prune", "-q"] + limit, self.env), None

    def dead(self):
        return None, None


class PruneBorg(Borg):
    """borg: prune and compact."""

    def store(self, number, path, tags):
        name = f"state-{number:05d}" + "".join("." + tag for tag in tags)
        time = hour(number).strftime("%Y-%m-%dT%H:%M:%S")
        run([self.binary, "create", "--chunker-params", self.chunker, "--timestamp", time, "--stdin-name", "app.dump",
             f"{self.repo}::{name}", "-"], self.env, stdin=path)
        self.snapshots.append(name)

    def forget(self, first_kept):
        done = run([self.binary, "prune"] + KEEP + ["--glob-archives", "state-?????", self.repo], self.env)
        kept = json.loads(run([self.binary, "list", "--json", self.repo], self.env)["stdout"])["archives"]
        return done, {archive["name"] for archive in kept}

    def prune(self, *flags):
        limit = ["--threshold", "0"] if "--full" in flags else []
        return run([self.binary, "compact"] + limit + [self.repo], self.env), None

    def dead(self):
        return None, None


class PruneRustic(Rustic):
    """rustic: forget, prune that deletes at once."""

    def store(self, number, path, tags):
        command = self.base + ["backup", "--json", "--force", "--stdin-filename", "app.dump", "--time",
                               hour(number).strftime("%Y-%m-%d %H:%M:%S")]
        tags = [part for tag in tags for part in ("--tag", tag)]
        done = run(command + tags + ["-"], self.env, stdin=path, cwd=self.work)
        self.snapshots.append(json.loads(done["stdout"])["id"])

    def forget(self, first_kept):
        tag = ["--keep-tags", "first"] if first_kept else []
        done = run(self.base + ["forget", "--group-by", "host"] + KEEP + tag, self.env)
        groups = json.loads(run(self.base + ["snapshots", "--json"], self.env)["stdout"])
        return done, {entry["id"] for entry in entries(groups)}

    def prune(self, *flags):
        limit = ["--max-unused", "0B"] if "--full" in flags else []
        return run(self.base + ["prune", "--instant-delete"] + limit, self.env), None

    def dead(self):
        return None, None


def entries(groups):
    """Snapshots of rustic's list, which has them by group, in one of two shapes."""
    for group in groups:
        inner = group.get("snapshots") if isinstance(group, dict) else group[-1]
        yield from inner if inner is not None else [group]


TOOLS = {"holdfast": PruneHoldfast, "restic": PruneRestic, "borg": PruneBorg, "rustic": PruneRustic}


def restores(tool, states, numbers, out):
    """CPU seconds of restoring these states, each compared."""
    cpu = []
    for number in numbers:
        cpu.append(tool.restore_stream(number, out)["cpu"])
        if not filecmp.cmp(out, states[number], shallow=False):
            raise SystemExit(f"{tool.name}: state {number} differs")
    return cpu


def measure(tool, fresh, states, first_kept):
    """One row of the table."""
    tool.prepare()
    for number, path in enumerate(states):
        tool.store(number, path, ["first"] if number == 0 and first_kept else [])
        if number % 24 == 23:
            print(f"  {tool.name}: state {number + 1} of {len(states)}", flush=True)
    row = {"tool": tool.name, "before": tree_size(tool.repo)[0]}
    forgotten, kept = tool.forget(first_kept)
    numbers = [n for n, name in enumerate(tool.snapshots) if name in kept]
    row["kept"], ends = len(numbers), [numbers[-1], numbers[0]]
    out = os.path.join(tool.work, "restored")
    row["restore_cpu_before"] = restores(tool, states, ends, out)
    pruned, report = tool.prune()
    row.update(forget_cpu=forgotten["cpu"], forget_wall=forgotten["wall"], prune_cpu=pruned["cpu"], prune_wall=pruned["wall"],
               prune_rss_mb=pruned["rss_mb"], after=tree_size(tool.repo)[0], report=report)
    row["dead"], row["stored"] = tool.dead()
    row["restore_cpu_after"] = restores(tool, states, ends, out)
    full, _ = tool.prune("--full")
    row.update(full_cpu=full["cpu"], full_rss_mb=full["rss_mb"], after_full=tree_size(tool.repo)[0])
    for number in numbers:
        restores(tool, states, [number], out)
    fresh.prepare()
    for number in numbers:
        fresh.store(number, states[number], [])
    row["fresh"] = tree_size(fresh.repo)[0]
    fresh.remove()
    tool.remove()
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", required=True)
    parser.add_argument("--work", default="/tmp/holdfast-bench-prune")
    parser.add_argument("--results")
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--first-kept", action="store_true")
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    states = sorted(glob.glob(os.path.join(args.states, "state-*")))[:args.limit]
    rows = []
    for name in args.tools.split(","):
        tool, fresh = TOOLS[name](args.work), TOOLS[name](os.path.join(args.work, "fresh"))
        row = measure(tool, fresh, states, args.first_kept)
        rows.append(row)
        mb = {key: round(row[key] / 1e6, 2) for key in ("before", "after", "after_full", "fresh")}
        dead = f"{row['dead'] / row['stored']:.1%}" if row["stored"] else "-"
        print(f"{name}: {row['kept']} kept; MB {mb}; full/fresh {row['after_full'] / row['fresh']:.3f}; dead left {dead}; "
              f"forget {row['forget_cpu']} s CPU; prune {row['prune_cpu']} s CPU, {row['prune_wall']} s, {row['prune_rss_mb']} MB; "
              f"full {row['full_cpu']} s CPU; restore {row['restore_cpu_before']} -> {row['restore_cpu_after']}", flush=True)
        if row["report"]:
            print("  ", {key: row["report"][key] for key in ("written_bytes", "removed_bytes", "records_merged", "versions_proved")})
    if args.results:
        os.makedirs(args.results, exist_ok=True)
        name = "prune-first-kept.json" if args.first_kept else "prune.json"
        with open(os.path.join(args.results, name), "w", encoding="ascii") as file:
            json.dump(rows, file, indent=1)
    shutil.rmtree(args.work, ignore_errors=True)


if __name__ == "__main__":
    main()
