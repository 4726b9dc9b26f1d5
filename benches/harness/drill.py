#!/usr/bin/env python3
"""A drill of a database, against `pg_restore` of the same dump into the same kind of server.

    benches/drill [--megabytes 1000] [--runs 3] [--results DIR]

A database of so many MB (as `pg_dump -Fc -Z0` writes it: rows of an application, two indexes on the large table) is saved once.
Then, in turns: `pg_restore` of the plain dump into a new database of a running server, with the settings of a temporary cluster;
and `holdfast drill`, which starts its server, restores, dumps again and compares. Wall time, and the CPU time of all programs
and servers. Printed: the medians, and drill / pg_restore, bound 1.3 (of wall time, on a quiet machine; the ratio of CPU time also says
something on a busy one).
"""

import argparse
import glob
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "workloads"))
from cluster import Cluster  # noqa: E402

BOUND = 1.3
# Bytes that a row of the large table takes in a dump, about.
ROW = 200


def children_cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def server_cpu(cluster):
    """Seconds of the server, of its sessions that have ended, and of its helpers that live."""
    main = int(open(cluster.dir + "/data/postmaster.pid").readline())
    total = 0
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            fields = open(path).read().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        if path == "/proc/%d/stat" % main:
            total += sum(int(n) for n in fields[11:15])
        elif int(fields[1]) == main:
            total += sum(int(n) for n in fields[11:13])
    return total / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--results")
    args = parser.parse_args()
    holdfast = os.environ["HOLDFAST_BIN"]
    rows = args.megabytes * 1000000 // ROW
    work = tempfile.mkdtemp(prefix="holdfast-drill-bench-", dir="/var/tmp")
    os.chmod(work, 0o755)
    try:
        with Cluster(["maintenance_work_mem=128MB", "shared_buffers=128MB", "jit=off"]) as cluster:
            cluster.psql("create database app")
            cluster.psql(
                "create table events (id bigint primary key, customer integer, at timestamptz, kind text, body text, amount numeric);"
                "insert into events select i, i * 7919 %% 100000, timestamptz '2024-01-01' + i * interval '3 seconds', "
                "(array['order','login','refund','note'])[i %% 4 + 1], md5(i::text) || md5((i * 3)::text) || md5((i * 5)::text), "
                "i %% 10007 / 100.0 from generate_series(1::bigint, %d) i;"
                "create index on events (customer, at); create index on events (kind);"
                "create table customers as select i as id, md5(i::text) as name from generate_series(1, 100000) i;" % rows, "app")
            env = dict(cluster.env, HOLDFAST_REPOSITORY=work + "/repository", HOLDFAST_PASSWORD="x", HOME=work,
                       XDG_CACHE_HOME=work + "/cache", XDG_STATE_HOME=work + "/state", XDG_CONFIG_HOME=work, TMPDIR=work)
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            subprocess.run([holdfast, "init"], env=env, check=True, **quiet)
            url = "host=%s user=postgres dbname=app" % cluster.dir
            subprocess.run([holdfast, "backup", "--postgres", url], env=env, check=True, **quiet)
            dump = work + "/app.dump"
            with open(dump, "wb") as out:
                subprocess.run([holdfast, "dump", "latest", "app"], env=env, check=True, stdout=out, stderr=subprocess.DEVNULL)
            restores, drills, parts, cpus = [], [], [], []
            for run in range(args.runs):
                cluster.psql("create database again template template0")
                began, cpu = time.monotonic(), children_cpu() + server_cpu(cluster)
                subprocess.run([cluster.bin + "/pg_restore", "--exit-on-error", "-d", "again", dump], env=cluster.env, check=True)
                restores.append(time.monotonic() - began)
                time.sleep(0.5)
                restore_cpu = children_cpu() + server_cpu(cluster) - cpu
                cluster.psql("drop database again")
                began, cpu = time.monotonic(), children_cpu()
                done = subprocess.run([holdfast, "drill", "--json"], env=env, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                drills.append(time.monotonic() - began)
                cpus.append((restore_cpu, children_cpu() - cpu))
                source = json.loads(done.stdout)["sources"][0]
                assert source["proof"] == "equal", source
                parts.append((source["duration_seconds"], source["proof_seconds"]))
                print("run %d: pg_restore %.1f s, drill %.1f s (restore %.1f, proof %.1f); CPU %.1f and %.1f s"
                      % (run + 1, restores[-1], drills[-1], *parts[-1], *cpus[-1]), flush=True)
            restore, drill = statistics.median(restores), statistics.median(drills)
            size = os.path.getsize(dump)
            print("%.0f MB: pg_restore %.1f s, drill %.1f s, %.2f (bound %.1f)" % (size / 1e6, restore, drill, drill / restore, BOUND))
            print("CPU of all programs and servers: drill / pg_restore %.2f" % statistics.median(b / a for a, b in cpus))
            if args.results:
                with open(os.path.join(args.results, "drill.json"), "w") as out:
                    json.dump({"bytes": size, "pg_restore_seconds": restores, "drill_seconds": drills,
                               "restore_and_proof_seconds": parts, "cpu_seconds": cpus, "ratio": drill / restore}, out, indent=1)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
