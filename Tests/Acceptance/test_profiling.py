"""anira top, --trace, and the ways of computing that must not change an answer."""

import json
import os
import runpy
import select
import signal
import subprocess
from collections import defaultdict

import pytest

from suite import BINARY, ROOT, Dealer, Refused, Suite, run, wait_for


@pytest.fixture(scope="module")
def prompts(model):
    return [model.tokens(f"profiled {i}", 5 + 9 * i) for i in range(8)]


def answers(endpoint, prompts, **more):
    with Dealer(endpoint) as client:
        ids = [client.send({"generate": {"tokens": p, "max_new_tokens": 12, "include": {"logprobs": True}, **more}})
               for p in prompts]
        replies = client.collect(ids, 60)
    return [{k: v for k, v in replies[i][-1].content.items() if k != "timing"} for i in ids]


def test_a_trace_opens_as_json_and_follows_every_item_through_all_processes(model, prompts, tmp_path):
    trace = tmp_path / "trace.json"
    with Suite(model.path, tmp_path / "suite", cores=2, options=("--trace", str(trace))) as suite:
        answers(suite.endpoint, prompts)
        with Dealer(suite.endpoint) as client:  # after the answers: whoever has worked is registered
            stages = client.one({"status": {}}).content["stages"]
        pids = {worker["name"]: worker["pid"] for stage in stages for worker in stage["workers"]}
    events = json.loads(trace.read_text())
    names = {e["args"]["name"]: e["pid"] for e in events if e["name"] == "process_name"}
    assert {n: p for n, p in names.items() if n != "router"}.items() <= pids.items()
    assert {"router", "decider-0", "coda-0"} < set(names)
    requests = [e for e in events if e["ph"] == "X" and e["pid"] == names["router"]]
    assert len(requests) == len(prompts)
    flows = defaultdict(list)
    for event in events:
        if event["ph"] in "stf" and event.get("cat") == "item":
            flows[event["id"]].append(event)
    assert len(flows) >= 12 * len(prompts)
    for steps in flows.values():
        assert [e["ph"] for e in sorted(steps, key=lambda e: e["ts"])] == ["s", "t", "t", "t", "f"]
        assert len({e["pid"] for e in steps}) == 4
    # A token drawn goes on from the coda.
    assert {e["pid"] for e in events if e["ph"] == "s"} == {names["router"], names["coda-0"]}
    # Slices of one line lie side by side, as viewers need them.
    lines = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            lines[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for spans in lines.values():
        spans.sort()
        assert all(b[0] >= a[1] - 0.002 for a, b in zip(spans, spans[1:]))


def test_a_trace_goes_on_after_the_router_was_killed(model, tmp_path):
    trace = tmp_path / "trace.json"
    with Suite(model.path, tmp_path / "suite", options=("--trace", str(trace))) as suite, \
            Dealer(suite.endpoint) as client:
        client.generate([1, 2, 3], 4)
        (router,) = suite.workers()["router"]
        os.kill(router, signal.SIGKILL)
        wait_for(lambda: suite.workers()["router"] not in ([router], []), 20, "a new Router")
        client.generate([1, 2, 3], 4)
    events = json.loads(trace.read_text())
    assert len({e["pid"] for e in events if e["ph"] == "X" and e["name"].startswith("request ")}) == 2


def test_a_trace_that_cannot_be_written_is_one_clear_line(model, tmp_path):
    with pytest.raises(Refused) as refused:
        Suite(model.path, tmp_path, options=("--trace", str(tmp_path / "no/such/folder/t.json"))).start()
    assert "cannot write the trace" in refused.value.err


def test_top_shows_every_worker(suite, model, prompts):
    answers(suite.endpoint, prompts)
    shown = run("top", "--endpoint", suite.endpoint, "--count", "2", "--interval", "0.2").stdout
    for name in ("decider-0", "core-0", "core-1", "coda-0"):
        assert shown.count(name) == 2
    assert "mean" in shown and "tokens/s" in shown


def test_a_worker_of_another_name_is_shown_with_its_stage(model, tmp_path):
    """Whether "big" was a core or a coda, nobody could see."""
    with Suite(model.path, tmp_path) as suite:
        worker = subprocess.Popen([BINARY, "core", "--model", model.path, "--data", suite.data, "--connect",
                                   f"ipc://{suite.data}/workers.ipc", "--name", "a-rather-big-one"],
                                  stderr=subprocess.DEVNULL)
        try:
            for command in (("status",), ("top", "--count", "1", "--interval", "0.2")):
                wait_for(lambda: "core/a-rather-big-one  ready" in run(*command, "--endpoint", suite.endpoint).stdout,
                         20, "the worker under its stage")
        finally:
            worker.terminate()
            worker.wait(20)


def test_a_list_that_is_no_list_shows_how_its_command_is_used():
    """The usage was that of the program."""
    for command, option in (("generate", "--tokens"), ("score", "--token-depths"), ("generate", "--stop-tokens")):
        done = run(command, option, "1,x")
        assert done.returncode == 64 and f"{option}: 'x' is not a number" in done.stderr
        assert f"See 'anira {command} --help'" in done.stderr


def test_two_threads_give_the_same_bits(suite, model, prompts, tmp_path):
    with Suite(model.path, tmp_path, options=("--threads", "2")) as other:
        assert answers(other.endpoint, prompts) == answers(suite.endpoint, prompts)


@pytest.mark.parametrize("weights", ("bf16", "int8"))
def test_smaller_weights_answer_nearly_the_same_through_any_number_of_workers(weights, suite, model, prompts, tmp_path):
    fixed = {"depth": {"policy": "fixed", "value": 3}}
    with Suite(model.path, tmp_path, cores=2, options=("--weights", weights)) as other:
        small = answers(other.endpoint, prompts, **fixed)
        assert small == [answers(other.endpoint, [p], **fixed)[0] for p in prompts]
        with Dealer(other.endpoint) as client:
            logprobs = client.score(prompts[3], **fixed)["logprobs"]
    with Dealer(suite.endpoint) as client:
        exact = client.score(prompts[3], **fixed)["logprobs"]
    assert logprobs == pytest.approx(exact, abs=0.3)
    assert logprobs != exact


def test_a_worker_with_other_weights_is_refused(suite, model, tmp_path):
    connect = f"ipc://{suite.data}/workers.ipc"
    ended = run("core", "--model", model.path, "--data", tmp_path, "--connect", connect, "--name", "core-7", "--weights",
                "bf16")
    assert ended.returncode == 1 and "serves model" in ended.stderr and "bf16" in ended.stderr


@pytest.mark.parametrize("kv", ("f16", "bf16"))
def test_short_keys_and_values_survive_a_kill_bit_for_bit(kv, model, tmp_path):
    prompt = model.tokens("short keys", 40)
    with Suite(model.path, tmp_path, options=("--kv", kv)) as suite:
        with Dealer(suite.endpoint) as client:
            wanted = {"include": {"logprobs": True}}
            whole = client.generate(prompt, 12, **wanted)
            begun = client.generate(prompt, 4, session="s", **wanted)
            for kind in ("decider", "core", "coda"):
                os.kill(suite.workers()[kind][0], signal.SIGKILL)
            rest = client.generate([], 8, session="s", **wanted)
            replays = client.one({"status": {}}).content["counters"]["replays"]
    assert begun["tokens"] + rest["tokens"] == whole["tokens"]
    assert begun["logprobs"] + rest["logprobs"] == whole["logprobs"]
    assert replays == 0, "the session was to come from the store"


def test_a_worker_with_other_keys_and_values_is_refused(suite, model, tmp_path):
    connect = f"ipc://{suite.data}/workers.ipc"
    ended = run("core", "--model", model.path, "--data", tmp_path, "--connect", connect, "--name", "core-7", "--kv", "f16")
    assert ended.returncode == 1 and "kv-f16" in ended.stderr and "--kv" in ended.stderr


def test_bench_weights_reports_errors_and_depths(shipped):
    found = json.loads(run("bench", "weights", "--model", str(shipped("mano-early")), "--rows", "20", "--json").stdout)
    found = found["results"]
    assert [row["format"] for row in found] == ["f32", "weights bf16", "weights int8", "kv f16", "kv bf16"]
    assert found[0]["largestLogitError"] == 0
    assert 0 < found[1]["meanLogitError"] < found[2]["meanLogitError"] < 1
    assert all(row["depthsChanged"] < 0.05 for row in found)


def test_a_timeline_has_each_workers_slices_once(tmp_path):
    timeline = runpy.run_path(ROOT / "Benchmarks/growth/timeline.py")
    trace = tmp_path / "trace.json"
    # As a running Router leaves it, without the end of the list; two sessions in one matrix.
    core = '{"name":"core","ph":"X","pid":7,"tid":16,"ts":%s,"dur":%s}'
    trace.write_text("[\n" + ",\n".join([
        '{"name":"process_name","ph":"M","pid":7,"args":{"name":"core-0"}}',
        core % (1000, 500), core % (1250, 500), core % (9000, 250)]) + ",\n")
    assert timeline["slices"](trace) == {"core-0": {"compute": [(1.0, 1.75), (9.0, 9.25)]}}
    assert timeline["within"]([(1.0, 1.75), (9.0, 9.25)], 1.5, 9.125) == [(0.0, 0.25), (7.5, 7.625)]


def test_a_trace_replaces_nothing_but_a_trace(model, tmp_path):
    """Whatever the path named was replaced: notes, links, devices; a pipe without a reader was waited for."""
    notes = tmp_path / "notes.txt"
    notes.write_text("keep me")
    measurements = tmp_path / "list.json"
    measurements.write_text('[\n{"name":"decode","tokens":12}\n]\n')
    (tmp_path / "link").symlink_to(notes)
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("notes.txt", "not a trace"), ("list.json", "not a trace"), ("link", "not a trace"), ("pipe", "not a regular file")):
        done = run("up", "--model", model.path, "--data", tmp_path / "data", "--trace", tmp_path / name)
        assert done.returncode == 1 and words in done.stderr, done
    assert "decode" in measurements.read_text()
    assert notes.read_text() == "keep me" and (tmp_path / "link").is_symlink()


def test_a_watched_status_reaches_a_pipe_and_opens_nothing_more(suite):
    """Every look at the suite left its sockets and two threads behind."""
    process = subprocess.Popen([BINARY, "status", "--watch", "--endpoint", suite.endpoint], stdout=subprocess.PIPE)
    used = []
    try:
        for _ in range(30):
            assert select.select([process.stdout], [], [], 10)[0], "nothing was written"
            if b"core-0" in os.read(process.stdout.fileno(), 1 << 16):
                used.append([len(os.listdir(f"/proc/{process.pid}/{what}")) for what in ("fd", "task")])
            if len(used) == 8:
                break
        # A look may be under way as they are counted, and the runtime may add a thread for a core.
        assert all(last - first < 2 * (len(used) - 1) for first, last in zip(used[0], used[-1])), used
    finally:
        process.kill()
        process.wait(10)
