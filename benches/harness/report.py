"""Tables from benchmark records. Pure: records in, text out."""

import statistics


def mb(number):
    return "-" if number is None else "%.2f" % (number / 1e6)


def increments(tool):
    return [b - a for a, b in zip(tool["sizes"], tool["sizes"][1:])]


def summary(tool):
    """The figures of one tool that the tables and the ratios use."""
    steps, later = increments(tool), tool["backups"][1:]
    start = tool.get("startup", {}).get("cpu", 0.0)
    best = lambda label, key: min((r[key] for r in tool["restores"].get(label, {}).get("runs", [])), default=None)
    return {"bytes": tool["sizes"][-1] if tool["sizes"] else None, "du": tool.get("repository_du"),
            "files": tool.get("repository_files"), "first": tool["sizes"][0] if tool["sizes"] else None,
            "step": statistics.mean(steps) if steps else None,
            "step_median": statistics.median(steps) if steps else None,
            "first_cpu": tool["backups"][0]["cpu"] if tool["backups"] else None,
            "first_wall": tool["backups"][0]["wall"] if tool["backups"] else None,
            "later_cpu": statistics.median(b["cpu"] for b in later) if later else None,
            "later_wall": statistics.median(b["wall"] for b in later) if later else None,
            "start_cpu": start, "rss": max((b["rss_mb"] for b in tool["backups"]), default=None),
            "restore_rss": max((r["rss_mb"] for e in tool["restores"].values() for r in e["runs"]), default=None),
            "decoded": max((e["decoded_bytes"] / e["bytes"] for e in tool["restores"].values() if e.get("decoded_bytes")), default=None),
            "newest_cpu": best("newest", "cpu"), "oldest_cpu": best("oldest", "cpu"), "newest_wall": best("newest", "wall")}


def verdict(tool):
    if tool["error"]:
        return "FAILED"
    if any(not e["identical"] for e in tool["restores"].values()):
        return "WRONG"
    return "identical" if tool["restores"] else "-"


def failed(record):
    """True when holdfast failed or restored other bytes (a peer's failure is only reported)."""
    return any(t["tool"] == "holdfast" and verdict(t) in ("FAILED", "WRONG") for t in record["tools"])


def table(record):
    """One workload as a text table, ratios to holdfast in the last column where holdfast ran."""
    head = ["tool", "first MB", "total MB", "du MB", "files", "KB/step", "cpu s first/later", "wall s first/later", "start s",
            "RSS MB b/r", "restore cpu new/old", "restored"]
    ours = next((summary(t) for t in record["tools"] if t["tool"] == "holdfast" and t["sizes"]), None)
    if ours:
        head += ["decoded/output", "x holdfast"]
    rows = [head]
    number = lambda value, form="%.2f": "-" if value is None else form % value
    for tool in record["tools"]:
        s = summary(tool)
        row = [tool["tool"], mb(s["first"]), mb(s["bytes"]), mb(s["du"]), number(s["files"], "%d"),
               number(None if s["step"] is None else s["step"] / 1e3, "%.0f"),
               "%s / %s" % (number(s["first_cpu"]), number(s["later_cpu"])), "%s / %s" % (number(s["first_wall"]), number(s["later_wall"])),
               number(s["start_cpu"]), "%s / %s" % (number(s["rss"], "%.0f"), number(s["restore_rss"], "%.0f")),
               "%s / %s" % (number(s["newest_cpu"]), number(s["oldest_cpu"])), verdict(tool)]
        if ours:
            row.append(number(s["decoded"]))
            row.append(number(s["bytes"] / ours["bytes"], "%.1f") if s["bytes"] and ours["bytes"] else "-")
        rows.append(row)
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    lines = ["", "%s: %s (%d states%s%s)" % (record["workload"], record["title"], record["states"],
             ", %.0f MB in all" % (record["logical_bytes"] / 1e6) if record["logical_bytes"] else "", ", quick" if record["quick"] else "")]
    for r in rows:
        lines.append("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))))
    return "\n".join(lines)
