"""Running one command and measuring it; sizes of folders; comparing what came back.

Invariant: CPU is user + system of the command and every descendant it waited for; the feeding side is never counted.
"""

import os
import stat
import subprocess
import tempfile
import time

BLOCK = 1 << 20


class Failed(Exception):
    """A measured command ended with a status other than 0."""


def run(command, env, stdin=None, stdout=None, cwd=None, feeder=None):
    """Runs `command`; returns wall, cpu, rss_mb, stdout, stderr.

    `stdin` and `stdout` are paths; `feeder` is a command whose output is piped in. Without `stdout` the (small) output
    is returned.
    """
    producer = subprocess.Popen(feeder, stdout=subprocess.PIPE) if feeder else None
    source = producer.stdout if producer else open(stdin or os.devnull, "rb")
    sink = open(stdout, "wb") if stdout else tempfile.TemporaryFile()
    with source, sink, tempfile.TemporaryFile() as complaints:
        started = time.monotonic()
        child = subprocess.Popen(command, env=env, stdin=source, stdout=sink, stderr=complaints, cwd=cwd)
        source.close()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if producer and producer.wait() != 0 and child.returncode == 0:
            raise Failed("%s: the feeding command failed" % " ".join(feeder))
        text = ""
        if not stdout:
            sink.seek(0)
            text = sink.read().decode(errors="replace")
        complaints.seek(0)
        complaint = complaints.read().decode(errors="replace")
    if child.returncode != 0:
        raise Failed("%s: exit %d: %s" % (" ".join(command), child.returncode, complaint.strip()[-800:]))
    return {"wall": round(wall, 4), "cpu": round(usage.ru_utime + usage.ru_stime, 4),
            "rss_mb": round(usage.ru_maxrss / 1024, 1), "stdout": text, "stderr": complaint[-4000:]}


def tree_size(folder):
    """(sum of file sizes, allocated bytes as du counts them, number of files) below `folder`."""
    apparent = allocated = files = 0
    for base, _, names in os.walk(folder):
        for name in names:
            # space that holdfast keeps free for a prune on a full disk: no data
            if name == "reserve" and base.rstrip("/") == folder.rstrip("/"):
                continue
            try:
                info = os.lstat(os.path.join(base, name))
            except FileNotFoundError:
                continue
            apparent, allocated, files = apparent + info.st_size, allocated + info.st_blocks * 512, files + 1
    return apparent, allocated, files


def same_file(left, right):
    """Byte comparison; True when identical."""
    if os.path.getsize(left) != os.path.getsize(right):
        return False
    with open(left, "rb") as a, open(right, "rb") as b:
        while True:
            x, y = a.read(BLOCK), b.read(BLOCK)
            if x != y:
                return False
            if not x:
                return True


def same_tree(left, right):
    """None when two trees agree in names, types, modes, times, link targets and bytes; else the first difference."""
    def listing(top):
        out = {}
        for base, dirs, names in os.walk(top):
            for name in dirs + names:
                full = os.path.join(base, name)
                out[os.path.relpath(full, top)] = full
        return out
    ours, theirs = listing(left), listing(right)
    if ours.keys() != theirs.keys():
        return "names differ: %s" % sorted(ours.keys() ^ theirs.keys())[:3]
    for name, full in ours.items():
        a, b = os.lstat(full), os.lstat(theirs[name])
        if stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
            return "%s: another file type" % name
        if stat.S_ISLNK(a.st_mode):
            if os.readlink(full) != os.readlink(theirs[name]):
                return "%s: another link target" % name
            continue
        if a.st_mode != b.st_mode:
            return "%s: mode %o became %o" % (name, a.st_mode, b.st_mode)
        if stat.S_ISREG(a.st_mode):
            # Microseconds: the coarsest of the tools compared keeps no more.
            if abs(a.st_mtime_ns - b.st_mtime_ns) >= 1000:
                return "%s: another modification time" % name
            if not same_file(full, theirs[name]):
                return "%s: other bytes" % name
    return None
