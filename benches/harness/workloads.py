"""Workloads by name: how each is generated, kept and handed to the runner.

Invariant: a workload's folder holds `workload.json` only when it is complete, so a broken generation is never measured.
"""

import glob
import json
import os
import shutil
import subprocess
import sys

GENERATORS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "workloads")


class Workload:
    """`kind`: stream (numbered states of one stream), tree (numbered folders) or pipe (one generated stream)."""

    def __init__(self, name, kind, script, options, title, pattern="state-*", quick=None, folder=None, take=None):
        self.name, self.kind, self.script, self.options, self.title = name, kind, script, options, title
        self.pattern, self.quick, self.folder, self.take = pattern, quick or {}, folder or name, take

    def states(self, data, quick):
        """Generates what is missing; returns the states in order (paths)."""
        suffix = "-quick" if quick else ""
        folder = os.path.join(data, self.folder + suffix)
        options = dict(self.options, **(self.quick if quick else {}))
        if self.kind == "pipe":
            return [self.command(options)]
        if not os.path.exists(os.path.join(folder, "workload.json")):
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run(self.command(options) + ["--out", folder], check=True, stdout=sys.stderr)
        found = sorted(glob.glob(os.path.join(folder, self.pattern)))
        if not found:
            raise SystemExit("%s: no states in %s" % (self.name, folder))
        return found[:self.take] if self.take and not quick else found

    def command(self, options):
        out = [sys.executable, os.path.join(GENERATORS, self.script)]
        for key, value in options.items():
            out += ["--" + key] if value is True else ["--" + key, str(value)]
        return out

    def describe(self, data, quick):
        """What the generator says about what it made."""
        path = os.path.join(data, self.folder + ("-quick" if quick else ""), "workload.json")
        if not os.path.exists(path):
            return None
        with open(path) as file:
            text = json.load(file)
        text.pop("hours", None)
        text["arguments"].pop("out", None)
        return text


SMALL = {"hours": 6, "scale": 0.1}
ALL = [
    Workload("app-db-24", "stream", "app_db.py", {"hours": 168}, "24 hourly pg_dump -Fc -Z0 of a live application database",
             "state-*.dump", SMALL, "app-db", 24),
    Workload("app-db-168", "stream", "app_db.py", {"hours": 168}, "168 hourly pg_dump -Fc -Z0 of a live application database",
             "state-*.dump", SMALL, "app-db", 168),
    Workload("app-plain-24", "stream", "app_db.py", {"hours": 24, "form": "plain"}, "24 hourly plain pg_dump piped to stdin",
             "state-*.sql", SMALL),
    Workload("sqlite-24", "stream", "app_sqlite.py", {"hours": 24}, "24 hourly images of a SQLite application database",
             "state-*.sqlite3", SMALL),
    Workload("sqlite-168", "stream", "app_sqlite.py", {"hours": 168}, "168 hourly images of a SQLite application database",
             "state-*.sqlite3", SMALL),
    Workload("pgbench-24", "stream", "pgbench_db.py", {"hours": 24}, "24 hourly dumps of append-heavy pgbench",
             "state-*.dump", {"hours": 6, "scale": 1, "transactions": 500}),
    Workload("releases-10", "tree", "releases.py", {"releases": 10}, "ten releases of a code base", "release-*",
             {"releases": 3, "synthetic": True, "files": 200}),
    Workload("tree-1g", "tree", "tree.py", {"files": 80000, "bytes": 1000000000}, "1 GB tree of 80,000 files: first and unchanged",
             "tree", {"files": 800, "bytes": 10000000}),
    Workload("stream-4g", "pipe", "stream.py", {"bytes": 4 << 30}, "one 4 GB stream: peak memory", quick={"bytes": 64 << 20}),
    Workload("vacuum-full-12", "stream", "app_db.py", {"hours": 12, "vacuum-full-every": 3},
             "honest row: VACUUM FULL every third hour", "state-*.dump", dict(SMALL, **{"vacuum-full-every": 3})),
    Workload("encrypted-6", "stream", "app_db.py", {"hours": 6, "encrypt": True},
             "honest row: every dump encrypted by the user", "state-*.dump", SMALL),
]
