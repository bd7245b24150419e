#!/usr/bin/env python3
"""What every worker did, drawn from traces of the Router (`--trace`): a panel for each trace, a line for each worker.

usage: python Benchmarks/growth/timeline.py docs/timeline.svg TITLE=TRACE=MILLISECONDS ...

Each panel shows so many milliseconds from the middle of its trace. Needs matplotlib.
"""

import argparse
import json

KINDS = {"compute": "#0072b2", "decide": "#009e73", "store": "#e69f00", "queue": "#bbbbbb"}


def slices(path):
    """{worker: {kind: [(start, end)]}} in milliseconds, overlapping ones of one kind made one."""
    with open(path) as file:
        text = file.read().rstrip().rstrip(",")
    events = json.loads(text if text.endswith("]") else text + "]")
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    found = {}
    for e in events:
        worker = names.get(e["pid"], "router")
        if e["ph"] == "X" and worker != "router":
            kind = e["name"] if e["name"] in KINDS else "compute"
            found.setdefault(worker, {}).setdefault(kind, []).append((e["ts"] / 1000, (e["ts"] + e["dur"]) / 1000))
    return {worker: {kind: merged(spans) for kind, spans in kinds.items()} for worker, kinds in found.items()}


def merged(spans):
    out = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def within(spans, first, last):
    return [(max(start, first) - first, min(end, last) - first) for start, end in spans if end > first and start < last]


def panel(axes, title, path, length):
    """Draws a trace and returns the kinds of slices that show."""
    workers = slices(path)
    ends = [span for kinds in workers.values() for spans in kinds.values() for span in spans]
    first = (min(s for s, _ in ends) + max(e for _, e in ends)) / 2
    shown = set()
    order = sorted(workers, key=lambda name: ("decider core coda".split().index(name.split("-")[0]), name))
    for lane, worker in enumerate(order):
        # The narrow kinds last: where several sessions share a worker, one's wait lies beside another's computation.
        for kind in ("queue", "compute", "decide", "store"):
            spans = within(workers[worker].get(kind, []), first, first + length)
            shown |= {kind} if spans else set()
            height, low = (0.25, 0.3) if kind == "queue" else (0.5, -0.35)
            axes.broken_barh([(start, end - start) for start, end in spans], (lane + low, height), color=KINDS[kind],
                             linewidth=0)
        busy = sum(end - start for start, end in within(workers[worker].get("compute", []), first, first + length))
        axes.text(length * 1.01, lane, f"computing {100 * busy / length:.0f} %", va="center")
    axes.set_yticks(range(len(order)), order)
    axes.set(title=title, xlim=(0, length), ylim=(len(order) - 0.4, -0.6), xlabel="ms")
    return shown


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture")
    parser.add_argument("panels", nargs="+", metavar="TITLE=TRACE=MILLISECONDS")
    o = parser.parse_args()
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "anira", "font.size": 10,
                                "axes.spines.top": False, "axes.spines.right": False})
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch
    figure, all_axes = plt.subplots(len(o.panels), 1, figsize=(10, 2 * len(o.panels) + 0.4), layout="constrained",
                                    squeeze=False)
    shown = set()
    for axes, text in zip(all_axes[:, 0], o.panels):
        title, path, length = text.rsplit("=", 2)
        shown |= panel(axes, title, path, float(length))
    figure.legend(handles=[Patch(color=color, label=kind) for kind, color in KINDS.items() if kind in shown],
                  ncols=len(KINDS), frameon=False, loc="outside lower center")
    figure.savefig(o.picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
