"""A PostgreSQL server of its own in a temporary folder: unix socket only, stopped and removed at the end.

`initdb` refuses root, so as root everything runs as user postgres through setpriv. Kills nothing it did not start.
"""

import glob
import os
import pwd
import shutil
import subprocess
import tempfile


def bin_dir():
    """The newest server installation's bin folder (PG_BIN_DIR overrides)."""
    if os.environ.get("PG_BIN_DIR"):
        return os.environ["PG_BIN_DIR"]
    found = [d for d in glob.glob("/usr/lib/postgresql/*/bin") if os.path.exists(d + "/initdb")]
    if not found:
        raise SystemExit("No PostgreSQL server binaries below /usr/lib/postgresql: run scripts/setup")
    return max(found, key=lambda d: int(d.split("/")[4]))


class Cluster:
    """Context manager; `.env` reaches the server, `.psql(sql)` runs SQL, `.bin` holds the programs."""

    def __init__(self, settings=()):
        self.bin, self.settings = bin_dir(), list(settings)
        self.dir = tempfile.mkdtemp(prefix="holdfast-pg-")
        self.as_user = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.dir, user.pw_uid, user.pw_gid)
            self.as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        self.env = dict(os.environ, PGHOST=self.dir, PGPORT="5432", PGUSER="postgres", PGDATABASE="postgres", LC_ALL="C.UTF-8")

    def _run(self, *args):
        subprocess.run(self.as_user + list(args), check=True, cwd=self.dir, stdout=subprocess.DEVNULL)

    def __enter__(self):
        try:
            self._run(self.bin + "/initdb", "-D", self.dir + "/data", "-A", "trust", "-U", "postgres", "-E", "UTF8",
                      "--locale=C.UTF-8", "--no-sync")
            with open(self.dir + "/data/postgresql.conf", "a") as conf:
                conf.write("\n".join(["fsync=off", "full_page_writes=off", "synchronous_commit=off", "autovacuum=off",
                                      "listen_addresses=''", "unix_socket_directories='%s'" % self.dir,
                                      "shared_buffers=64MB", "max_wal_size=512MB", "wal_level=minimal",
                                      "max_wal_senders=0"] + self.settings) + "\n")
            self._run(self.bin + "/pg_ctl", "-D", self.dir + "/data", "-w", "-l", self.dir + "/log", "start")
        except BaseException:
            shutil.rmtree(self.dir, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_):
        subprocess.run(self.as_user + [self.bin + "/pg_ctl", "-D", self.dir + "/data", "-m", "immediate", "stop"],
                       cwd="/", stdout=subprocess.DEVNULL)
        shutil.rmtree(self.dir, ignore_errors=True)

    def psql(self, sql, database="postgres"):
        """Runs SQL text; fails on the first error."""
        return subprocess.run([self.bin + "/psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", database], input=sql.encode(),
                              env=self.env, check=True, stdout=subprocess.PIPE).stdout.decode()

    def psql_stream(self, pieces, database="postgres"):
        """Runs SQL that comes in pieces (COPY data included), never held whole."""
        child = subprocess.Popen([self.bin + "/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database], env=self.env,
                                 stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for piece in pieces:
            child.stdin.write(piece.encode())
        child.stdin.close()
        if child.wait() != 0:
            raise SystemExit("psql failed with status %d" % child.returncode)

    def dump(self, path, database, form="custom"):
        """The bytes that a user's pg_dump gives: custom uncompressed, or plain."""
        args = ["-Fc", "-Z0"] if form == "custom" else ["-Fp"]
        if form == "plain" and "--restrict-key" in subprocess.run(
                [self.bin + "/pg_dump", "--help"], stdout=subprocess.PIPE).stdout.decode():
            args.append("--restrict-key=benchmark")  # else a random word in every dump, which is noise here
        with open(path + ".part", "wb") as out:
            subprocess.run([self.bin + "/pg_dump"] + args + ["-d", database], env=self.env, check=True, stdout=out)
        os.rename(path + ".part", path)
