"""What `kills` and `quotas` share: a place for one history, sources that change, the two oracles, totals that add up.

A history keeps, for every snapshot, what its source was at that time (the model). Oracle O1 restores snapshots from storage alone
and compares with the model; O2 is `must`: an exit code that is not among the true ones is a lie.
"""

import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 120  # longest time for one command; longer is a hang


class Lost(Exception):
    """Something that was reported is not there, or is not what it was (O1)."""


class Lie(Exception):
    """An exit code or a report that is not true (O2)."""


def place_of(path):
    """What a tree is: path -> kind, mode, owner, time, contents or target, and which names are one file."""
    path = Path(path)
    found, names = {}, {}
    for folder, folders, files in os.walk(path, followlinks=False):
        for name in (["."] if folder == str(path) else []) + folders + files:
            one = Path(folder) / name
            if name.startswith(".holdfast-restore-"):
                continue  # a killed restore may leave these (docs/shortcomings.md)
            info = one.lstat()
            key = os.path.relpath(one, path)
            kind = stat.S_IFMT(info.st_mode)
            if kind == stat.S_IFLNK:
                body = os.readlink(one)
            elif kind == stat.S_IFREG:
                body = hashlib.sha256(one.read_bytes()).hexdigest()
                names.setdefault((info.st_dev, info.st_ino), []).append(key)
            else:
                body = ""
            found[key] = [kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns, body]
    found["*links"] = sorted(sorted(group) for group in names.values() if len(group) > 1)
    return found


def difference(expected, got):
    """The first few differences of two trees, in words; empty when they are equal."""
    said = []
    for key in sorted(set(expected) | set(got)):
        if expected.get(key) != got.get(key):
            said.append(f"{key!r}: expected {expected.get(key)}, got {got.get(key)}")
    return "; ".join(said[:4])


class Sources:
    """A tree and a stream that change a little from backup to backup."""

    def __init__(self, root, rng, scale=1):
        self.root, self.rng, self.scale = Path(root), rng, scale
        self.rows = [self.row(i) for i in range(1500 * scale)]
        self.root.mkdir()
        for number in range(8):
            self.write(f"d{number % 3}/e/f{number}")
        os.symlink("../nowhere", self.root / "d1/link")
        os.link(self.root / "d0/e/f0", self.root / "d2/second-name")
        self.number = 0

    def row(self, key):
        return f"{key}\t{self.rng.getrandbits(64):016x}\t{self.rng.choice('abcdefgh') * 12}\t{self.rng.random():.6f}\n"

    def write(self, name):
        one = self.root / name
        one.parent.mkdir(parents=True, exist_ok=True)
        if one.exists():
            one.unlink()
        size = self.rng.choice((0, 1, 100, 4096, 30_000)) * self.scale
        half = self.rng.randbytes(size // 2)
        one.write_bytes(half + half)
        os.chmod(one, self.rng.choice((0o600, 0o644, 0o755, 0o4755)))
        os.utime(one, ns=(1_600_000_000_000_000_000, self.rng.randrange(10**18, 17 * 10**17)))

    def change(self):
        self.number += 1
        for _ in range(self.rng.randrange(1, 4)):
            self.write(f"d{self.rng.randrange(3)}/e/f{self.rng.randrange(12)}")
        if self.rng.random() < 0.3:
            new = self.root / f"d0/l{self.number}"
            if self.rng.random() < 0.5:
                os.symlink(f"target-{self.number}", new)
            else:
                some = sorted(p for p in self.root.rglob("f*") if p.is_file())
                os.link(self.rng.choice(some), new)
        for _ in range(self.rng.randrange(1, 60)):
            at = self.rng.randrange(len(self.rows))
            self.rows[at] = self.row(at)
        self.rows.extend(self.row(len(self.rows) + i) for i in range(self.rng.randrange(30)))

    def stream(self):
        return dump_of(self.rows)


def dump_of(rows):
    """A plain dump as `pg_dump` writes it, so that it is taken for whole."""
    head = "--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE public.t (a integer, b text, c text, d text);\n\n"
    tail = "\\.\n\n\n--\n-- PostgreSQL database dump complete\n--\n\n"
    return (head + "COPY public.t (a, b, c, d) FROM stdin;\n" + "".join(rows) + tail).encode()


class Place:
    """One repository with the folders of one user; every command of a history runs here."""

    def __init__(self, binary, root):
        self.binary, self.root = str(binary), Path(root)
        self.repo = self.root / "repo"
        self.home = self.root / "home"
        self.temp = self.root / "tmp"
        self.key = None
        self.home.mkdir(exist_ok=True)
        self.temp.mkdir(exist_ok=True)

    def environment(self, home=None):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HOLDFAST_", "XDG_"))}
        home = str(home or self.home)
        clean.update(HOME=home, XDG_CACHE_HOME=home + "/cache", XDG_STATE_HOME=home + "/state", XDG_DATA_HOME=home + "/data",
                     XDG_CONFIG_HOME=home + "/config", TMPDIR=str(self.temp), TZ="UTC")
        return clean

    def argv(self, words, repo=None):
        key = ["--key-file", str(self.key)] if self.key and words[0] != "init" else []
        return [self.binary, "-r", str(repo or self.repo), "--no-progress", "--no-input", *key, *map(str, words)]

    def run(self, words, stdin=b"", repo=None, home=None):
        """Runs a command to its end; (exit code, stdout, stderr)."""
        try:
            done = subprocess.run(self.argv(words, repo), input=stdin, capture_output=True, env=self.environment(home), timeout=LIMIT_SECONDS, cwd=self.root)
        except subprocess.TimeoutExpired:
            raise Lie(f"hangs: {' '.join(map(str, words))}") from None
        return done.returncode, done.stdout, done.stderr.decode(errors="replace")

    def must(self, codes, words, **how):
        code, out, err = self.run(words, **how)
        if code not in codes:
            raise Lie(f"exit {code}, true would be {codes}: {' '.join(map(str, words))}\n{err.strip()}")
        return code, out, err

    def fresh(self):
        """A home without state and caches."""
        return tempfile.mkdtemp(dir=self.root, prefix="fresh-")

    def visible(self, home=None):
        _, out, _ = self.must((0,), ["snapshots", "--json"], home=home)
        return {one["id"]: one for one in json.loads(out)["snapshots"]}


class Model:
    """What was reported, with what each snapshot must give back."""

    def __init__(self, place):
        self.place = place
        self.kept = {}       # id -> (what kind, source name, what it must give)
        self.forgotten = {}  # the same, hidden by a forget and not yet pruned
        self.damaged = set() # ids that may fail (but never give something else): hit by damage that was planted

    def check(self, only=None):
        """O1 over all kept snapshots (or `only`), with state and caches of nobody. Returns ids that failed although damaged."""
        place, failed = self.place, set()
        home = place.fresh()
        try:
            seen = place.visible(home)
            for one in self.forgotten:
                if one in seen:
                    raise Lie(f"{one} is visible although it was reported as forgotten")
            for one, (kind, name, expected) in list(self.kept.items()):
                if one not in seen:
                    raise Lost(f"{one} ({kind}) was reported and is not listed")
                if only is not None and one not in only:
                    continue
                problem = self.restored(one, kind, name, expected, home)
                if problem and one in self.damaged and problem.startswith("exit "):
                    failed.add(one)
                elif problem:
                    raise Lost(f"{one} ({kind}): {problem}")
        finally:
            shutil.rmtree(home, ignore_errors=True)
        return failed

    def restored(self, one, kind, name, expected, home):
        place = self.place
        if kind == "stream":
            code, out, err = place.run(["dump", one, name], home=home)
            if code != 0:
                return f"exit {code} of dump: {err.strip()}"
            return "" if out == expected else "dump gives other bytes"
        target = Path(tempfile.mkdtemp(dir=place.root, prefix="check-"))
        try:
            code, _, err = place.run(["restore", one, "--target", target], home=home)
            if code != 0:
                return f"exit {code} of restore: {err.strip()}"
            return difference(expected, place_of(str(target) + name))
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def adopt(self, kind, name, expected, word=""):
        """Snapshots that are there and that no one reported (the run was killed after its commit) must be whole, too."""
        found = [one for one in self.place.visible() if one not in self.kept and one not in self.forgotten]
        for one in found:
            self.kept[one] = (kind, name, expected)
        return found


class Totals:
    """Adds up by commit in a JSON file, so that shards can run beside each other and be cut short."""

    def __init__(self, path, commit):
        self.path, self.commit = path, commit

    def _with(self, action):
        if self.path is None:
            return action({})
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            every = json.loads(text) if text.strip() else {}
            answer = action(every.setdefault(self.commit, {"seeds": []}))
            file.seek(0)
            file.truncate()
            file.write(json.dumps(every, indent=1, sort_keys=True) + "\n")
            return answer

    def done(self):
        return set(self._with(lambda row: [n for a, b in row["seeds"] for n in range(a, b + 1)] if row else []))

    def add(self, seed, figures):
        def one(row):
            numbers = sorted({n for a, b in row.get("seeds", []) for n in range(a, b + 1)} | {seed})
            ranges = []
            for n in numbers:
                if ranges and ranges[-1][1] == n - 1:
                    ranges[-1][1] = n
                else:
                    ranges.append([n, n])
            row["seeds"] = ranges
            for key, value in figures.items():
                if isinstance(value, list):
                    row[key] = row.get(key, []) + value
                else:
                    row[key] = row.get(key, 0) + value
        self._with(one)


def commit_here():
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=TOP, capture_output=True, text=True)
    return said.stdout.strip() or "unknown"


def arguments(parser, default_results):
    """The options that both programs have."""
    parser.add_argument("--seeds", default="1..20", help="A..B, both included")
    parser.add_argument("--time-limit", type=float, default=45, help="minutes after which no new seed begins")
    parser.add_argument("--binary", default=str(TOP / "target/release/holdfast"))
    parser.add_argument("--commit", default=commit_here(), help="the commit that the binary was built from, for the totals")
    parser.add_argument("--results", default=str(Path(__file__).parent / "results" / default_results), help="totals; 'none': keep none")
    parser.add_argument("--again", action="store_true", help="also the seeds that the totals have already")
    parser.add_argument("--keep", default=tempfile.gettempdir(), help="where the folder of a failed seed is kept")
    parser.add_argument("--prove-detectors", action="store_true", help="plant each mistake and see that it is found")
    return parser


def main_loop(options, one_seed, what):
    """Runs the seeds; one_seed(seed, root, figures) raises Lost or Lie. Ends with 1 when any seed failed."""
    import time
    first, last = map(int, options.seeds.split(".."))
    totals = Totals(None if options.results == "none" else options.results, options.commit)
    done = set() if options.again else totals.done()
    end, failed, sum_of = time.monotonic() + options.time_limit * 60, [], {}
    for seed in range(first, last + 1):
        if seed in done:
            continue
        if time.monotonic() > end:
            print(f"time is over before seed {seed}")
            break
        root = Path(tempfile.mkdtemp(prefix=f"hf{what}-"))
        figures = {"lost": 0, "lies": 0}
        try:
            one_seed(seed, root, figures)
        except (Lost, Lie) as found:
            figures["lost" if isinstance(found, Lost) else "lies"] += 1
            figures["failed_seeds"] = [seed]
            failed.append(seed)
            kept = Path(options.keep) / f"{what}-seed-{seed}"
            if len(failed) <= 5:  # the first few are enough to look at
                shutil.rmtree(kept, ignore_errors=True)
                (root / "found.txt").write_text(f"{type(found).__name__}: {found}\n")
                shutil.copytree(root, kept, symlinks=True)
            else:
                kept = "not kept"
            again = f"tests/long/{what} --seeds {seed}..{seed} --again --results none --binary {options.binary}"
            print(f"seed {seed} FAILED: {type(found).__name__}: {found}\n  folder: {kept}\n  again: {again}", flush=True)
        finally:
            shutil.rmtree(root, ignore_errors=True)
        totals.add(seed, {**figures, "histories": 1})
        for key, value in figures.items():
            sum_of[key] = sum_of.get(key, [] if isinstance(value, list) else 0) + value
    print(json.dumps(sum_of, indent=1, sort_keys=True))
    sys.exit(1 if failed else 0)
