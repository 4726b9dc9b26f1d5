#!/usr/bin/env python3
"""Workload pgbench: append-heavy dumps. pgbench_history grows, accounts are updated at random places.

    pgbench_db.py --hours 24 --out DIR [--scale 5] [--transactions 3000]

Writes DIR/state-000.dump ... (custom, uncompressed). One client and a fixed random seed, so that runs agree but for the
times that pgbench writes into its history.
"""

import argparse
import json
import os
import subprocess

from cluster import Cluster


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--out", required=True)
    parser.add_argument("--scale", type=int, default=5)
    parser.add_argument("--transactions", type=int, default=3000)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    with Cluster() as pg:
        pg.psql("create database bench")
        bench = [pg.bin + "/pgbench", "-q", "-n"]
        quiet = dict(env=pg.env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run(bench + ["-i", "-s", str(args.scale), "bench"], **quiet)
        for hour in range(args.hours):
            if hour:
                run = [b for b in bench if b != "-q"]
                subprocess.run(run + ["-t", str(args.transactions), "-c", "1", "--random-seed=%d" % (hour + 1), "bench"], **quiet)
            if hour % 4 == 3:
                pg.psql("vacuum", "bench")
            path = os.path.join(args.out, "state-%03d.dump" % hour)
            pg.dump(path, "bench")
            print("hour %3d: %.1f MB" % (hour, os.path.getsize(path) / 1e6), flush=True)
    with open(os.path.join(args.out, "workload.json"), "w") as out:
        json.dump({"workload": "pgbench", "arguments": vars(args)}, out, indent=1)


if __name__ == "__main__":
    main()
