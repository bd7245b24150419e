"""Every part of anira bench: a table with percentiles, or JSON that says where it was measured. What is fast is not asserted."""

import functools
import json
import os
import signal
import subprocess

import pytest

from suite import BINARY, alive, descendants, run, wait_for

SMALL = ["--hidden", "64", "--intermediate", "128", "--heads", "2"]
PARTS = {
    "kernels": ["--inputs", "64", "--outputs", "64", "--rounds", "3"],
    "decode": [*SMALL, "--sessions", "4", "--tokens", "8", "--rounds", "1"],
    "batch": [*SMALL, "--sessions", "2,4", "--tokens", "8", "--rounds", "1"],
    "prefill": [*SMALL, "--lengths", "64", "--rounds", "2"],
    "context": [*SMALL, "--contexts", "16,64", "--tokens", "8", "--rounds", "1"],
    "store": ["--hidden", "64", "--commits", "20", "--rounds", "1"],
    "transport": ["--count", "50", "--rows", "1,8"],
    "suite": [*SMALL, "--sessions", "4", "--tokens", "16", "--rounds", "1", "--seconds", "0.5"],
}


@functools.cache
def found(part):
    done = run("bench", part, *PARTS[part], "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_prints_percentiles(binary, part):
    done = run("bench", part, *PARTS[part])
    assert done.returncode == 0, done.stderr
    assert "p50" in done.stdout and ("p99" in done.stdout or "p90" in done.stdout)
    assert "commit" in done.stdout.splitlines()[0] and "cores" in done.stdout.splitlines()[0]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_says_in_json_where_it_was_measured(binary, part):
    assert set(found(part)) == {"machine", "commit", "kernels", "results"}
    assert found(part)["results"] and "p99" in json.dumps(found(part)["results"]).lower()


def test_shares_of_the_limit_are_positive_and_finite(binary):
    def rows(part):
        return found(part)["results"]

    assert all(0 < row["overRaw"] < 1e6 for row in rows("transport") + rows("store"))
    assert all(0 < row["shareOfPeak"] < 1e3 for row in rows("prefill") + rows("kernels")["products"])
    assert rows("kernels")["multiplyAddGflops"] > 0
    first, second = rows("context")
    assert first["byBytes"] == 1 < second["byBytes"]


def test_services_that_are_left_out_are_not_reported(binary):
    """They were, as zeros."""
    assert found("decode")["results"]["suite"]["micros"] > 0
    done = run("bench", "decode", *PARTS["decode"], "--local-only", "--json")
    results = json.loads(done.stdout)["results"]
    assert results["local"]["micros"] > 0 and not [name for name in results if name.startswith("suite")]


def test_a_bad_number_of_rows_is_refused(binary):
    done = run("bench", "transport", "--rows", "0")
    assert done.returncode != 0 and "--rows" in done.stderr


def test_an_interrupted_bench_leaves_nothing_behind(binary, tmp_path):
    """Its suite ran on for ever: a child is in a process group of its own."""
    words = [BINARY, "bench", "suite", *SMALL]
    process = subprocess.Popen(words, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(descendants(process.pid)) >= 5, 60, "its suite")
    children = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    wait_for(lambda: not any(alive(pid) for pid in children), 10, "its children to end")
    assert list(tmp_path.iterdir()) == []
