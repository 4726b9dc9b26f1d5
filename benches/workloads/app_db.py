#!/usr/bin/env python3
"""Workload app-db: hourly pg_dump states of a live application database.

    app_db.py --hours 168 --out DIR [--form custom|plain|both] [--seed 1] [--scale 1.0]
              [--vacuum-every 4] [--vacuum-full-every 0] [--encrypt]

Writes DIR/state-000.dump ... (custom, uncompressed) and/or state-000.sql. Autovacuum is off; VACUUM runs every few
simulated hours so that freed places all over the heap are used again. --vacuum-full-every and --encrypt make the
variants that no delta can win (reported honestly): the first rewrites every table, the second encrypts each dump.
"""

import argparse
import json
import os
import subprocess
import time

from app_model import TABLES, AppModel
from cluster import Cluster

_ESCAPE = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n"})
_TYPES = {"at": "timestamptz", "created_at": "timestamptz", "last_login_at": "timestamptz", "updated_at": "timestamptz",
          "expires_at": "timestamptz", "payload": "json"}


def schema():
    """CREATE TABLE statements with PostgreSQL's own types, and the indexes such an application has."""
    for table, columns in TABLES.items():
        body = ", ".join("%s %s" % (name, _TYPES.get(name, kind)) for name, kind in columns)
        yield "create table %s (%s);\n" % (table, body)
    yield "create index on orders (user_id); create index on order_lines (order_id); create index on events (user_id);\n"


def load(model):
    """The first rows, as COPY blocks."""
    yield from schema()
    for table in TABLES:
        yield "copy %s from stdin;\n" % table
        block = []
        for row in model.initial(table):
            block.append("\t".join(str(v).translate(_ESCAPE) for v in row) + "\n")
            if len(block) == 2000:
                yield "".join(block)
                block.clear()
        yield "".join(block) + "\\.\n"


def literal(value):
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def statements(changes):
    """One hour's changes as SQL in one transaction."""
    yield "set standard_conforming_strings = on; begin;\n"
    for change in changes:
        kind, table = change[0], change[1]
        if kind == "update":
            sets = ", ".join("%s = %s" % (c, literal(v)) for c, v in change[3].items())
            yield "update %s set %s where id = %d;\n" % (table, sets, change[2])
        elif kind == "insert":
            yield "insert into %s values (%s);\n" % (table, ", ".join(literal(v) for v in change[2]))
        else:
            yield "delete from %s where id = %d;\n" % (table, change[2])
    yield "commit;\n"


def encrypt(path, hour):
    """AES-256-CTR with a new nonce for each dump: what a user's own encryption does to every byte."""
    subprocess.run(["openssl", "enc", "-aes-256-ctr", "-K", "11" * 32, "-iv", "%032x" % ((hour + 1) << 64), "-in", path,
                    "-out", path + ".enc"], check=True)
    os.rename(path + ".enc", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--out", required=True)
    parser.add_argument("--form", choices=["custom", "plain", "both"], default="custom")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--vacuum-every", type=int, default=4)
    parser.add_argument("--vacuum-full-every", type=int, default=0)
    parser.add_argument("--encrypt", action="store_true")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    forms = {"custom": ["custom"], "plain": ["plain"], "both": ["custom", "plain"]}[args.form]
    model, started, rows = AppModel(args.seed, args.scale), time.monotonic(), []
    with Cluster() as pg:
        pg.psql("create database app")
        pg.psql_stream(load(model), "app")
        pg.psql("vacuum analyze", "app")
        for hour in range(args.hours):
            total = sum(len(ids) for ids in model.live.values())
            changes = model.hour(hour) if hour else []
            if changes:
                pg.psql_stream(statements(changes), "app")
            if hour and args.vacuum_every and hour % args.vacuum_every == 0:
                pg.psql("vacuum", "app")
            if hour and args.vacuum_full_every and hour % args.vacuum_full_every == 0:
                pg.psql("vacuum full", "app")
            for form in forms:
                path = os.path.join(args.out, "state-%03d.%s" % (hour, "dump" if form == "custom" else "sql"))
                pg.dump(path, "app", form)
                if args.encrypt:
                    encrypt(path, hour)
            rows.append({"hour": hour, "rows": total, "touched": len(changes), "share": round(len(changes) / total, 5)})
            print("hour %3d: %d rows, %d touched (%.2f %%), %.1f MB, %.0f s" % (
                hour, total, len(changes), 100 * len(changes) / total, os.path.getsize(path) / 1e6,
                time.monotonic() - started), flush=True)
    with open(os.path.join(args.out, "workload.json"), "w") as out:
        json.dump({"workload": "app-db", "arguments": vars(args), "hours": rows}, out, indent=1)


if __name__ == "__main__":
    main()
