"""The benchmark runner: every workload on every tool in alternating order, everything restored and compared.

Called by benches/run. Prints tables, writes one JSON file per workload. A tool that restores other bytes is reported as
WRONG and counts as failed.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time

import report
import tools
import workloads
from measure import Failed, run, same_file, same_tree, tree_size

RESTORES = 3


def slim(done):
    return {key: done[key] for key in ("wall", "cpu", "rss_mb")}


def startup(tool):
    """Median cost of a command that only opens the repository: key derivation and start-up."""
    times = [tool.startup() for _ in range(3)]
    return {"cpu": statistics.median(t["cpu"] for t in times), "wall": statistics.median(t["wall"] for t in times)}


def note_size(result, tool):
    apparent, allocated, files = tree_size(tool.repo)
    result["sizes"].append(apparent)
    result["repository_bytes"], result["repository_du"], result["repository_files"] = apparent, allocated, files


def begin(tool):
    tool.prepare()
    empty, _, _ = tree_size(tool.repo)
    return {"tool": tool.name, "version": tool.version(), "encrypted": tool.encrypted, "empty_bytes": empty, "sizes": [],
            "taken_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "backups": [], "restores": {}, "error": None}


def rotated(things, number):
    cut = number % len(things) if things else 0
    return things[cut:] + things[:cut]


def guarded(result, action):
    """Runs one step; a failing tool leaves the race with its complaint recorded."""
    if result["error"]:
        return None
    try:
        return action()
    except (Failed, ValueError, KeyError, OSError) as error:
        result["error"] = str(error)[:1200]
        print("  %s failed: %s" % (result["tool"], result["error"]), file=sys.stderr, flush=True)
        return None


def streams(states, active, results, options):
    """Backs every state up on every tool, then restores newest and oldest."""
    for number, state in enumerate(states):
        for tool in rotated(active, number):
            result = results[tool.name]

            def step(tool=tool, result=result):
                if options.cold:
                    tool.drop_caches()
                result["backups"].append(slim(tool.backup_stream(number, stdin=state)))
                note_size(result, tool)
            guarded(result, step)
        if number % 12 == 11:
            print("  state %d of %d" % (number + 1, len(states)), file=sys.stderr, flush=True)
    for label, number in (("newest", len(states) - 1), ("oldest", 0)):
        for turn in range(RESTORES):
            for tool in rotated(active, turn):
                guarded(results[tool.name], lambda: restore_stream(tool, results[tool.name], label, number, states[number], options))


def restore_stream(tool, result, label, number, state, options):
    tool.drop_caches()
    out = os.path.join(options.work, "restored")
    done = tool.restore_stream(number, out)
    if done is None:
        return
    entry = result["restores"].setdefault(label, {"runs": [], "identical": True, "bytes": os.path.getsize(state)})
    entry["runs"].append(slim(done))
    entry["identical"] = entry["identical"] and same_file(out, state)
    os.unlink(out)
    if hasattr(tool, "decoded_bytes") and "decoded_bytes" not in entry:
        target = os.path.join(options.work, "restored-tree")
        entry["decoded_bytes"] = tool.decoded_bytes(number, target)
        shutil.rmtree(target, ignore_errors=True)


def trees(states, active, results, options, unchanged):
    """Each state takes its turn at one path, as a deployed release does; then the newest is restored."""
    place = os.path.join(options.work, "srv", "app")
    os.makedirs(os.path.dirname(place), exist_ok=True)
    rounds = states * (1 + unchanged)
    for number, state in enumerate(rounds):
        os.rename(state, place)
        try:
            for tool in rotated(active, number):
                result = results[tool.name]

                def step(tool=tool, result=result):
                    # An unchanged second backup is what local state is for: caches stay between the two.
                    if options.cold and not unchanged:
                        tool.drop_caches()
                    result["backups"].append(slim(tool.backup_tree(place)))
                    note_size(result, tool)
                guarded(result, step)
            if number == len(rounds) - 1:
                for tool in active:
                    guarded(results[tool.name], lambda: restore_tree(tool, results[tool.name], len(rounds) - 1, place, options))
        finally:
            os.rename(place, state)


def restore_tree(tool, result, number, place, options):
    tool.drop_caches()
    target = os.path.join(options.work, "restored-tree")
    done, top = tool.restore_tree(number, target, place)
    difference = same_tree(place, top)
    entry = result["restores"]["newest"] = {"runs": [slim(done)], "identical": difference is None, "difference": difference}
    if done.get("decoded_bytes"):
        entry["decoded_bytes"], entry["bytes"] = done["decoded_bytes"], tree_size(place)[0]
    shutil.rmtree(target, ignore_errors=True)


def pipes(states, active, results, options):
    """One generated stream, never on disk: restored, and compared by its hash."""
    wanted = subprocess.run(["sh", "-c", '"$@" | sha256sum', "sh"] + states[0], stdout=subprocess.PIPE, check=True).stdout[:64]
    for tool in active:
        result = results[tool.name]

        def step(tool=tool, result=result):
            result["backups"].append(slim(tool.backup_stream(0, feeder=states[0])))
            note_size(result, tool)
            out = os.path.join(options.work, "restored")
            done = tool.restore_stream(0, out)
            got = subprocess.run(["sha256sum", out], stdout=subprocess.PIPE, check=True).stdout[:64]
            result["restores"]["newest"] = {"runs": [slim(done)], "identical": got == wanted}
            os.unlink(out)
        guarded(result, step)
        tool.remove()


def measure(workload, options):
    """One workload on all tools; returns the record that is written as JSON."""
    print("%s: %s" % (workload.name, workload.title), file=sys.stderr, flush=True)
    states = workload.states(options.data, options.quick)
    active = []
    for kind in tools.ALL:
        if options.tools and kind.name not in options.tools:
            continue
        if kind.version() is None:
            print("  %s: not there, column left out" % kind.name, file=sys.stderr)
            continue
        if (workload.kind != "stream" and not kind.trees):
            continue
        active.append(kind(options.work))
    results = {}
    for tool in list(active):
        try:
            results[tool.name] = begin(tool)
        except (Failed, OSError) as error:
            print("  %s cannot start: %s" % (tool.name, error), file=sys.stderr)
            active.remove(tool)
    if workload.kind == "stream":
        streams(states, active, results, options)
    elif workload.kind == "tree":
        trees(states, active, results, options, unchanged=len(states) == 1)
    else:
        pipes(states, active, results, options)
    for tool in active:
        if os.path.exists(tool.repo):
            guarded(results[tool.name], lambda: results[tool.name].update(startup=startup(tool)))
        tool.remove()
    return {"workload": workload.name, "title": workload.title, "quick": options.quick, "cold": options.cold,
            "states": len(states), "input": workload.describe(options.data, options.quick),
            "logical_bytes": sum(os.path.getsize(s) for s in states) if workload.kind == "stream" else None,
            "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()},
            "tools": list(results.values())}


def keep_other_tools(record, path):
    """A run limited to some tools keeps the rows of the others from the last run of the same input."""
    try:
        with open(path) as file:
            before = json.load(file)
    except (OSError, ValueError):
        return record
    if (before["input"], before["states"], before["cold"]) == (record["input"], record["states"], record["cold"]):
        new = {tool["tool"] for tool in record["tools"]}
        rows = record["tools"] + [tool for tool in before["tools"] if tool["tool"] not in new]
        order = [kind.name for kind in tools.ALL]
        record["tools"] = sorted(rows, key=lambda tool: order.index(tool["tool"]))
    return record


def main():
    parser = argparse.ArgumentParser(prog="benches/run", description="Measures holdfast beside its peers.")
    parser.add_argument("workload", nargs="*", help="names; default: all. `benches/run --list` names them")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true", help="small inputs, to see that everything works")
    parser.add_argument("--tools", type=lambda text: text.split(","), help="only these columns, comma separated")
    parser.add_argument("--data", default=os.environ.get("HOLDFAST_BENCH_DATA", "/var/tmp/holdfast-bench/data"))
    parser.add_argument("--work", default=os.environ.get("HOLDFAST_BENCH_WORK", "/var/tmp/holdfast-bench/work"))
    parser.add_argument("--results", default=os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "results"))
    parser.add_argument("--warm", dest="cold", action="store_false", help="keep local caches between backups of one workload")
    options = parser.parse_args()
    if options.list:
        for workload in workloads.ALL:
            print("%-16s %s" % (workload.name, workload.title))
        return 0
    chosen = [w for w in workloads.ALL if not options.workload or w.name in options.workload]
    unknown = set(options.workload) - {w.name for w in chosen}
    if unknown:
        parser.error("no such workload: %s" % ", ".join(sorted(unknown)))
    for folder in (options.data, options.work, options.results):
        os.makedirs(folder, exist_ok=True)
    bad = False
    for workload in chosen:
        record = measure(workload, options)
        path = os.path.join(options.results, workload.name + ("-quick" if options.quick else "") + ".json")
        if options.tools:
            record = keep_other_tools(record, path)
        with open(path, "w") as out:
            json.dump(record, out, indent=1)
            out.write("\n")
        print(report.table(record), flush=True)
        bad = bad or report.failed(record)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
