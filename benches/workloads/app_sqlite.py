#!/usr/bin/env python3
"""Workload sqlite: hourly images of the same application's SQLite database.

    app_sqlite.py --hours 24 --out DIR [--seed 1] [--scale 1.0] [--vacuum-every 0]

Writes DIR/state-000.sqlite3 ... through the online backup interface, as a backup tool would read it. SQLite's own
VACUUM rewrites the whole file; --vacuum-every makes that variant.
"""

import argparse
import json
import os
import sqlite3
import tempfile

from app_model import TABLES, AppModel


def create(db, model):
    for table, columns in TABLES.items():
        db.execute("create table %s (%s)" % (table, ", ".join("%s %s" % c for c in columns).replace("bigint", "integer")))
        marks = ", ".join("?" for _ in columns)
        db.executemany("insert into %s values (%s)" % (table, marks), model.initial(table))
    for table, column in (("orders", "user_id"), ("order_lines", "order_id"), ("events", "user_id")):
        db.execute("create index %s_%s on %s (%s)" % (table, column, table, column))
    db.commit()


def play(db, changes):
    """One hour's changes in one transaction."""
    for change in changes:
        kind, table = change[0], change[1]
        if kind == "update":
            sets = ", ".join("%s = ?" % c for c in change[3])
            db.execute("update %s set %s where id = ?" % (table, sets), list(change[3].values()) + [change[2]])
        elif kind == "insert":
            db.execute("insert into %s values (%s)" % (table, ", ".join("?" for _ in change[2])), change[2])
        else:
            db.execute("delete from %s where id = ?" % table, (change[2],))
    db.commit()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--vacuum-every", type=int, default=0)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    model = AppModel(args.seed, args.scale)
    with tempfile.TemporaryDirectory(prefix="holdfast-sqlite-") as folder:
        db = sqlite3.connect(os.path.join(folder, "app.sqlite3"))
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = off")
        create(db, model)
        for hour in range(args.hours):
            changes = model.hour(hour) if hour else []
            play(db, changes)
            if hour and args.vacuum_every and hour % args.vacuum_every == 0:
                db.execute("vacuum")
            path = os.path.join(args.out, "state-%03d.sqlite3" % hour)
            if os.path.exists(path):
                os.unlink(path)
            image = sqlite3.connect(path)
            db.backup(image)
            image.execute("pragma journal_mode = delete")
            image.close()
            print("hour %3d: %d touched, %.1f MB" % (hour, len(changes), os.path.getsize(path) / 1e6), flush=True)
        db.close()
    with open(os.path.join(args.out, "workload.json"), "w") as out:
        json.dump({"workload": "sqlite", "arguments": vars(args)}, out, indent=1)


if __name__ == "__main__":
    main()
