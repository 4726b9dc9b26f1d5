#!/usr/bin/env python3
"""A pile of daily `.sql.gz` of a live database is imported, and every dump is compared as it comes back.

    benches/import --states DIR [--days 90] [--every 1] [--work DIR] [--results DIR]

Every N-th state of DIR (`state-000.sql`, or `state-000.dump`, which pg_restore turns into SQL) is a day of the pile, packed by `gzip -6` under
the name `app_backup_YYYYMMDD_020000.sql.gz`. With `--every 1` a day changes what the generator changes in a step (0.5 to 1 % of the
rows), with `--every 24` what it changes in 24 steps. Measured: bytes of the pile, of the repository (everything counted), CPU, wall and
memory of the import and of a second one that has nothing to do; and the growth of a day, from which 90 days follow.
"""

import argparse
import datetime
import glob
import gzip
import json
import os
import shutil
import subprocess

from measure import run, tree_size
from tools import Holdfast

FIRST = datetime.date(2024, 4, 1)
GOAL_DAYS = 90


def pile(states, folder):
    """Packs the states into the folder; returns the paths of the plain dumps by name."""
    plain = {}
    for day, state in enumerate(states):
        date = (FIRST + datetime.timedelta(days=day)).strftime("%Y%m%d")
        name = "app_backup_%s_020000.sql" % date
        path = os.path.join(folder, name)
        if state.endswith(".dump"):
            subprocess.run(["pg_restore", "-f", path, state], check=True)
        else:
            shutil.copyfile(state, path)
        subprocess.run(["gzip", "-6", path], check=True)
        plain[name + ".gz"] = path + ".gz"
    return plain


def compare(holdfast, snapshots, plain, work):
    """Every dump comes back as it was packed."""
    wrong = []
    for snapshot in snapshots:
        name = snapshot["originals"][0]["name"]
        out = os.path.join(work, "out.sql")
        run([holdfast.binary, "dump", snapshot["id"], "app_backup.sql"], holdfast.env, stdout=out, cwd=work)
        with gzip.open(plain[name]) as left, open(out, "rb") as right:
            while True:
                a, b = left.read(1 << 20), right.read(1 << 20)
                if a != b:
                    wrong.append(name)
                if a != b or not a:
                    break
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", required=True)
    parser.add_argument("--days", type=int, default=GOAL_DAYS)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--work", default="/var/tmp/holdfast-bench/import")
    parser.add_argument("--results", default=os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "results"))
    args = parser.parse_args()
    states = sorted(glob.glob(os.path.join(args.states, "state-*.sql")) or glob.glob(os.path.join(args.states, "state-*.dump")))
    states = states[::args.every][:args.days]
    shutil.rmtree(args.work, ignore_errors=True)
    folder = os.path.join(args.work, "pile")
    os.makedirs(folder)
    plain = pile(states, folder)
    holdfast = Holdfast(args.work)
    os.makedirs(holdfast.work, exist_ok=True)
    holdfast.init()
    empty = tree_size(holdfast.repo)[0]
    done = run([holdfast.binary, "import", folder], holdfast.env, cwd=args.work)
    again = run([holdfast.binary, "import", folder], holdfast.env, cwd=args.work)
    snapshots = json.loads(run([holdfast.binary, "snapshots", "--json"], holdfast.env, cwd=args.work)["stdout"])["snapshots"]
    wrong = compare(holdfast, snapshots, plain, args.work)
    packed = sum(os.path.getsize(path) for path in plain.values())
    stored = tree_size(holdfast.repo)[0]
    snapshots.sort(key=lambda snapshot: snapshot["time"])
    later = sum(snapshot["data_added"] for snapshot in snapshots[1:]) / max(1, len(snapshots) - 1)
    in_90 = empty + snapshots[0]["data_added"] + (GOAL_DAYS - 1) * later
    result = {
        "workload": "import", "days": len(states), "every": args.every, "pile_bytes": packed, "stored_bytes": stored,
        "pile_per_stored": round(packed / stored, 2), "first_day_bytes": snapshots[0]["data_added"], "later_day_bytes": round(later),
        "projected_90_days_pile_per_stored": round(packed / len(states) * GOAL_DAYS / in_90, 2),
        "import": {key: done[key] for key in ("wall", "cpu", "rss_mb")},
        "again": {key: again[key] for key in ("wall", "cpu", "rss_mb")},
        "said": done["stdout"].strip().splitlines()[-1], "wrong": wrong, "snapshots": len(snapshots),
    }
    os.makedirs(args.results, exist_ok=True)
    with open(os.path.join(args.results, "import-%d-every-%d.json" % (len(states), args.every)), "w") as out:
        json.dump(result, out, indent=1)
        out.write("\n")
    print(json.dumps(result, indent=1))
    if wrong or len(snapshots) != len(states):
        raise SystemExit("WRONG: %s" % wrong)


if __name__ == "__main__":
    main()
