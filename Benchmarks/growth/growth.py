#!/usr/bin/env python3
"""How the cost of a token grows with context, depth, sessions, threads and workers: measured, then drawn.

usage: python Benchmarks/growth/growth.py measure [--anira .build/release/anira] [--rounds 5] [--out growth.json]
       python Benchmarks/growth/growth.py draw growth.json docs/growth.svg

Every round measures everything in turn, so that what is compared saw the same noise of the machine; figures are medians of
the rounds' ratios. The model is that of `anira bench`: H 512, I 2048, 8 heads, K 6, one prelude, core and coda layer.
"""

import argparse
import json
import statistics
import subprocess
import sys

CONTEXTS = (64, 128, 256, 512, 1024, 1900)
SESSIONS = (1, 2, 4, 8, 16, 32, 64, 128)
K = 6


def bench(anira, part, *options):
    command = [anira, "bench", part, "--rounds", "3", "--json", *map(str, options)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_round(anira):
    """One look at everything; times are microseconds a token, speeds tokens a second."""
    def decode(depth, threads):
        found = bench(anira, "decode", "--local-only", "--sessions", 64, "--depth", depth, "--threads", threads)
        local = found["results"]["local"]
        return {"one": local["micros"], "many": 1e6 / local["batchTokens"]}

    context = {kv: bench(anira, "context", "--kv", kv, "--contexts", ",".join(map(str, CONTEXTS)))["results"]
               for kv in ("f32", "f16")}
    suite = bench(anira, "suite", "--seconds", 0)["results"]
    return {
        "context": {kv: [row["micros"] for row in rows] for kv, rows in context.items()},
        "bytes": {kv: [row["byBytes"] for row in rows] for kv, rows in context.items()},
        "depth": [decode(depth, 1) for depth in range(1, K + 1)],
        # One thread again, beside two: what is minutes apart here does not compare.
        "threads": [decode(3, threads) for threads in (1, 2)],
        "sessions": bench(anira, "batch", "--sessions", ",".join(map(str, SESSIONS)))["results"]["rows"],
        "workers": suite["twoCoresOverOne"],
    }


def measure(o):
    where = bench(o.anira, "context", "--contexts", "64", "--tokens", 8)
    found = {"machine": where["machine"], "kernels": where["kernels"], "commit": where["commit"], "rounds": []}
    for number in range(o.rounds):
        print(f"round {number + 1} of {o.rounds}", file=sys.stderr)
        found["rounds"].append(measure_round(o.anira))
        with open(o.out, "w") as file:
            json.dump(found, file, indent=1)


def summary(found):
    """The medians of the rounds' ratios that are drawn."""
    rounds = found["rounds"]

    def median(ratio):
        return statistics.median(ratio(r) for r in rounds)

    def against_first(values):
        return [median(lambda r, i=i: values(r)[i] / values(r)[0]) for i in range(len(values(rounds[0])))]

    return {
        "context": {kv: against_first(lambda r, kv=kv: r["context"][kv]) for kv in ("f32", "f16")},
        "bytes": {kv: rounds[0]["bytes"][kv] for kv in ("f32", "f16")},
        "depth": {of: against_first(lambda r, of=of: [d[of] for d in r["depth"]]) for of in ("one", "many")},
        "sessions": {of: [median(lambda r, i=i, of=of: r["sessions"][i][of] / r["sessions"][0]["fixed"])
                          for i in range(len(SESSIONS))] for of in ("fixed", "mixed", "deepest")},
        "limit": statistics.median(row["fixed"] / row["shareOfLimit"] / r["sessions"][0]["fixed"]
                                   for r in rounds for row in r["sessions"]),
        "two": {"threads, one session": median(lambda r: r["threads"][0]["one"] / r["threads"][1]["one"]),
                "threads, 64 sessions": median(lambda r: r["threads"][0]["many"] / r["threads"][1]["many"]),
                "core workers, depth 6": median(lambda r: r["workers"])},
    }


def draw(o):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "anira", "font.size": 10, "axes.grid": True,
                                "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})
    import matplotlib.pyplot as plt
    with open(o.results) as file:
        found = json.load(file)
    s = summary(found)
    blue, orange, green, grey = "#0072b2", "#d55e00", "#009e73", "#777777"
    figure, ((context, depth), (sessions, two)) = plt.subplots(2, 2, figsize=(10, 7.2), layout="constrained")

    context.plot(CONTEXTS, s["context"]["f32"], "o-", color=blue, label="keys and values in f32")
    context.plot(CONTEXTS, s["bytes"]["f32"], "--", color=blue, label="its bytes alone")
    context.plot(CONTEXTS, s["context"]["f16"], "s-", color=orange, label="in f16")
    context.plot(CONTEXTS, s["bytes"]["f16"], "--", color=orange, label="its bytes alone")
    context.set(title="Context, one session at depth 3", xlabel="positions", ylabel="time of a token, × that at 64")

    layers = range(1, K + 1)
    depth.plot(layers, s["depth"]["one"], "o-", color=blue, label="one session")
    depth.plot(layers, s["depth"]["many"], "s-", color=orange, label="64 sessions")
    depth.plot(layers, [(2 + d) / 3 for d in layers], "--", color=grey, label="products alone")
    depth.set(title="Depth", xlabel="core iterations", ylabel="time of a token, × that at depth 1")

    for of, color, mark, label in (("mixed", green, "^", "depths 1…5, mean 3"), ("fixed", blue, "o", "depth 3"),
                                   ("deepest", orange, "s", "depth 6")):
        sessions.plot(SESSIONS, s["sessions"][of], mark + "-", color=color, label=label)
    sessions.axhline(s["limit"], linestyle="--", color=grey, label="sgemm's peak at depth 3")
    sessions.set_xscale("log", base=2)
    sessions.set_xticks(SESSIONS, SESSIONS)
    sessions.set(title="Sessions, one thread", xlabel="sessions", ylabel="tokens/s, × one session at depth 3")

    names, values = list(s["two"]), list(s["two"].values())
    bars = two.barh(range(len(names)), values, color=(blue, blue, orange), height=0.5)
    two.bar_label(bars, [f" {v:.2f} ×" for v in values])
    two.set_yticks(range(len(names)), names)
    two.invert_yaxis()
    two.axvline(1, color=grey)
    two.set(title="Two instead of one, on two cores", xlabel="tokens/s, × with one", xlim=(0, 2))
    two.grid(False, axis="y")

    for panel in (context, depth, sessions):
        panel.set_ylim(bottom=0)
        panel.legend(frameon=False)
    figure.suptitle(f"{found['machine']}, kernels {found['kernels']}, commit {found['commit']}, "
                    f"medians of {len(found['rounds'])} rounds", fontsize=10)
    figure.savefig(o.picture, metadata={"Date": None})
    print(json.dumps(s, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("measure", help="run anira bench and keep what it finds")
    part.add_argument("--anira", default=".build/release/anira")
    part.add_argument("--rounds", type=int, default=5)
    part.add_argument("--out", default="growth.json")
    part.set_defaults(run=measure)
    part = parts.add_parser("draw", help="draw what was found (needs matplotlib)")
    part.add_argument("results")
    part.add_argument("picture")
    part.set_defaults(run=draw)
    o = parser.parse_args()
    o.run(o)


if __name__ == "__main__":
    main()
