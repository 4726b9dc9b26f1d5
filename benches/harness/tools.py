"""The tools under measurement, each behind the same few verbs.

What belongs here: how to call holdfast, restic, rustic, borg and the zstd baseline. What does not: measuring, reporting.
Invariant: every tool encrypts (except the zstd baseline, which says so) and gets its caches in a folder of ours.
"""

import json
import os
import shutil
import subprocess

from measure import run

PASSWORD = "benchmark"


class Tool:
    """One tool with one set of options. `name` is the column in the tables."""

    name = "?"
    encrypted = True
    trees = True

    def __init__(self, work):
        self.work = os.path.join(work, self.name)
        self.repo = os.path.join(self.work, "repo")
        self.cache = os.path.join(self.work, "cache")
        self.env = dict(os.environ, HOME=self.work, XDG_CACHE_HOME=self.cache, XDG_STATE_HOME=self.cache + "/state",
                        XDG_CONFIG_HOME=self.work + "/config", LC_ALL="C.UTF-8")
        self.snapshots = []

    def prepare(self):
        """Empties the tool's folder and initialises the repository."""
        shutil.rmtree(self.work, ignore_errors=True)
        os.makedirs(self.work)
        self.snapshots = []
        self.init()

    def drop_caches(self):
        """Removes everything local but the repository and key."""
        shutil.rmtree(self.cache, ignore_errors=True)

    def remove(self):
        """Deletes the repository and everything else of the tool."""
        shutil.rmtree(self.work, ignore_errors=True)

    @classmethod
    def version(cls):
        """The version line, or None when the tool is not there."""
        try:
            done = subprocess.run(cls.version_command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except FileNotFoundError:
            return None
        return done.stdout.decode().strip().splitlines()[0] if done.returncode == 0 and done.stdout else None


class Holdfast(Tool):
    """The product, called as a user calls it."""

    name = "holdfast"
    binary = os.environ.get("HOLDFAST_BIN", "holdfast")
    version_command = [binary, "--version"]

    @classmethod
    def version(cls):
        cls.version_command = [cls.binary, "--version"]
        found = super().version()
        if found:
            known = subprocess.run([cls.binary, "--help"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()
            if "backup" not in known:
                return None
        return found

    def __init__(self, work):
        super().__init__(work)
        self.env.update(HOLDFAST_PASSWORD=PASSWORD, HOLDFAST_REPOSITORY=self.repo, TMPDIR=self.work)
        for name in ("HOLDFAST_CONFIG", "HOLDFAST_PROFILE"):
            self.env.pop(name, None)

    def init(self):
        run([self.binary, "init", "--no-recovery-kit"], self.env, cwd=self.work)

    def backup_stream(self, number, stdin=None, feeder=None):
        done = run([self.binary, "backup", "--stdin", "--stdin-filename", "app.dump", "-q"], self.env, stdin=stdin,
                   feeder=feeder, cwd=self.work)
        self.snapshots.append(done["stdout"].strip())
        return done

    def restore_stream(self, number, out):
        return run([self.binary, "dump", self.snapshots[number], "app.dump"], self.env, stdout=out, cwd=self.work)

    def decoded_bytes(self, number, target):
        """Bytes decoded for a restore as the tool reports them, or None."""
        done = run([self.binary, "restore", self.snapshots[number], "--target", target, "--json"], self.env, cwd=self.work)
        return self._decoded(done)

    @staticmethod
    def _decoded(done):
        for line in done["stdout"].splitlines():
            record = json.loads(line) if line.startswith("{") else {}
            if "decoded_bytes" in record:
                return record["decoded_bytes"]
        return None

    def backup_tree(self, folder):
        done = run([self.binary, "backup", folder, "-q"], self.env, cwd=self.work)
        self.snapshots.append(done["stdout"].strip())
        return done

    def restore_tree(self, number, target, folder):
        done = run([self.binary, "restore", self.snapshots[number], "--target", target, "-q", "--json"], self.env, cwd=self.work)
        done["decoded_bytes"] = self._decoded(done)
        return done, os.path.join(target, folder.lstrip("/"))

    def startup(self):
        return run([self.binary, "snapshots", "--json"], self.env, cwd=self.work)


class Restic(Tool):
    """restic as its documentation tells users to run it."""

    name = "restic"
    binary = os.environ.get("RESTIC_BIN", "restic")
    version_command = [binary, "version"]
    compression = "auto"

    def __init__(self, work):
        super().__init__(work)
        self.env.update(RESTIC_PASSWORD=PASSWORD)
        self.base = [self.binary, "-r", self.repo, "--cache-dir", self.cache, "--compression", self.compression]

    def init(self):
        run(self.base + ["init"], self.env)

    def _remember(self, done):
        for line in done["stdout"].splitlines():
            record = json.loads(line) if line.startswith("{") else {}
            if record.get("message_type") == "summary":
                self.snapshots.append(record["snapshot_id"])
        return done

    def backup_stream(self, number, stdin=None, feeder=None):
        return self._remember(run(self.base + ["backup", "--json", "-q", "--stdin", "--stdin-filename", "app.dump"], self.env,
                                  stdin=stdin, feeder=feeder))

    def restore_stream(self, number, out):
        return run(self.base + ["dump", self.snapshots[number], "/app.dump"], self.env, stdout=out)

    def backup_tree(self, folder):
        return self._remember(run(self.base + ["backup", "--json", "-q", folder], self.env))

    def restore_tree(self, number, target, folder):
        done = run(self.base + ["restore", self.snapshots[number], "--target", target], self.env)
        return done, os.path.join(target, folder.lstrip("/"))

    def startup(self):
        return run(self.base + ["cat", "config"], self.env)


class ResticMax(Restic):
    """restic at its strongest compression."""

    name = "restic-max"
    compression = "max"


class Borg(Tool):
    """borg with repokey encryption and zstd 3, chunks as borg's defaults have them."""

    name = "borg"
    binary = os.environ.get("BORG_BIN", "borg")
    version_command = [binary, "--version"]
    chunker = "buzhash,19,23,21,4095"

    def __init__(self, work):
        super().__init__(work)
        # Only the cache folder is dropped between runs: keys and the security records are not caches.
        self.env.update(BORG_PASSPHRASE=PASSWORD, BORG_BASE_DIR=self.work + "/base", BORG_CACHE_DIR=self.cache,
                        BORG_RELOCATED_REPO_ACCESS_IS_OK="yes", BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes")

    def init(self):
        run([self.binary, "init", "-e", "repokey", self.repo], self.env)

    def _create(self, extra, paths, stdin=None, feeder=None, cwd=None):
        archive = "state-%04d" % len(self.snapshots)
        done = run([self.binary, "create", "--compression", "zstd,3", "--chunker-params", self.chunker] + extra +
                   [self.repo + "::" + archive] + paths, self.env, stdin=stdin, feeder=feeder, cwd=cwd)
        self.snapshots.append(archive)
        return done

    def backup_stream(self, number, stdin=None, feeder=None):
        return self._create(["--stdin-name", "app.dump"], ["-"], stdin, feeder)

    def restore_stream(self, number, out):
        return run([self.binary, "extract", "--stdout", self.repo + "::" + self.snapshots[number], "app.dump"], self.env, stdout=out)

    def backup_tree(self, folder):
        return self._create([], [folder])

    def restore_tree(self, number, target, folder):
        os.makedirs(target, exist_ok=True)
        done = run([self.binary, "extract", self.repo + "::" + self.snapshots[number]], self.env, cwd=target)
        return done, os.path.join(target, folder.lstrip("/"))

    def startup(self):
        return run([self.binary, "list", self.repo], self.env)


class Borg64(Borg):
    """borg with 64 KiB chunks."""

    name = "borg-64k"
    chunker = "buzhash,14,18,16,4095"


class Rustic(Tool):
    """rustic with its defaults."""

    name = "rustic"
    binary = os.environ.get("RUSTIC_BIN", "rustic")
    version_command = [binary, "--version"]
    init_options = []

    def __init__(self, work):
        super().__init__(work)
        self.env.update(RUSTIC_PASSWORD=PASSWORD)
        self.base = [self.binary, "-r", self.repo, "--cache-dir", self.cache, "--no-progress", "--log-level", "warn"]

    def init(self):
        run(self.base + ["init"] + self.init_options, self.env, cwd=self.work)

    def backup_stream(self, number, stdin=None, feeder=None):
        # A repeated stdin backup under one name stored the old bytes (rustic issue 1793): --force never compares.
        done = run(self.base + ["backup", "--json", "--force", "--stdin-filename", "app.dump", "-"], self.env, stdin=stdin,
                   feeder=feeder, cwd=self.work)
        self.snapshots.append(json.loads(done["stdout"])["id"])
        return done

    def restore_stream(self, number, out):
        return run(self.base + ["dump", self.snapshots[number] + ":app.dump"], self.env, stdout=out, cwd=self.work)

    def backup_tree(self, folder):
        done = run(self.base + ["backup", "--json", folder], self.env, cwd=self.work)
        self.snapshots.append(json.loads(done["stdout"])["id"])
        return done

    def restore_tree(self, number, target, folder):
        done = run(self.base + ["restore", self.snapshots[number], target], self.env, cwd=self.work)
        return done, os.path.join(target, folder.lstrip("/"))

    def startup(self):
        return run(self.base + ["snapshots", "--json"], self.env, cwd=self.work)


class Rustic64(Rustic):
    """rustic with 64 KiB chunks."""

    name = "rustic-64k"
    init_options = ["--set-chunk-size", "64KiB", "--set-chunk-min-size", "16KiB", "--set-chunk-max-size", "256KiB"]


class ZstdPatch(Tool):
    """The yardstick: the first state by `zstd -3`, each later one by `zstd -3 --patch-from` its predecessor. No encryption."""

    name = "zstd-patch"
    version_command = ["zstd", "--version"]
    encrypted = False
    trees = False

    def init(self):
        os.makedirs(self.repo)
        self.previous = None

    def backup_stream(self, number, stdin=None, feeder=None):
        target = os.path.join(self.repo, "state-%04d.zst" % number)
        size = os.path.getsize(stdin)
        window = max(27, size.bit_length())
        patch = ["--patch-from=" + self.previous, "--long=%d" % window] if self.previous else []
        done = run(["zstd", "-3", "-q", "-f"] + patch + [stdin, "-o", target], self.env)
        self.previous = stdin
        self.snapshots.append(target)
        return done

    def restore_stream(self, number, out):
        """Only the first is a file of its own; later ones need the whole chain, which nobody would restore from."""
        return run(["zstd", "-d", "-q", "-c", self.snapshots[0]], self.env, stdout=out) if number == 0 else None

    def startup(self):
        return run(["zstd", "--version"], self.env)


ALL = [Holdfast, Restic, ResticMax, Rustic, Rustic64, Borg, Borg64, ZstdPatch]
