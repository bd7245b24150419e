"""Starting, refusing to start, and stopping."""

import json
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

import checkpoints
from suite import BINARY, Dealer, Refused, Suite, alive, fingerprint, free_port, run, wait_for

pytestmark = pytest.mark.usefixtures("binary")


def refused(suite, *words):
    """It ends with exit code 1 and one line on stderr that contains the words."""
    try:
        with pytest.raises(Refused) as caught:
            suite.start()
    finally:
        if suite.process and suite.process.poll() is None:
            suite.kill()
    error = caught.value
    assert error.code == 1, error
    lines = [line for line in error.err.splitlines() if line.strip()]
    assert len(lines) == 1, f"expected one line on stderr:\n{error.err}"
    for word in words:
        assert word in lines[0], f"'{word}' is not in: {lines[0]}"
    assert not [pid for pid in suite.seen if alive(pid)]
    assert not list(suite.temporary.rglob("*"))
    return lines[0]


def stores(folder):
    return sorted(folder.rglob("data.mdb")) if folder.exists() else []


# --- refusals --------------------------------------------------------------------------------------------------

def test_a_missing_checkpoint_is_refused(tmp_path):
    refused(Suite(tmp_path / "nowhere", tmp_path), "nowhere")
    assert not stores(tmp_path)


@pytest.mark.parametrize("kind", checkpoints.DAMAGES)
def test_a_damaged_checkpoint_is_refused(tmp_path, kind):
    folder, words = checkpoints.damaged(tmp_path / "model", kind)
    refused(Suite(folder, tmp_path), *words)
    assert not stores(tmp_path)


def test_a_busy_port_is_refused(model, tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        refused(Suite(model.path, tmp_path, port=port), str(port))


def test_a_second_suite_on_the_same_data_folder_is_refused_and_the_first_serves_on(suite, model, tmp_path, client):
    refused(Suite(model.path, tmp_path, data=suite.data), str(suite.data))
    assert client.score([1, 2, 3])["depths"]


def test_a_store_of_another_model_is_refused_and_not_touched(models, tmp_path):
    data = tmp_path / "data"
    with Suite(models("early").path, tmp_path / "a", data=data) as suite, Dealer(suite.endpoint) as client:
        client.generate([1, 2, 3], 4, session="kept")
    before = fingerprint(data)
    refused(Suite(models("latest").path, tmp_path / "b", data=data))
    assert fingerprint(data) == before
    with Suite(models("early").path, tmp_path / "c", data=data) as suite, Dealer(suite.endpoint) as client:
        assert client.generate([4], 4, session="kept")["usage"]["prompt_tokens"] == 1


def test_a_data_folder_that_holds_nothing_belongs_to_any_model(models, tmp_path):
    """A first start with the wrong model or --weights made a folder of no further use."""
    data = tmp_path / "data"
    for name, more in (("early", ()), ("latest", ()), ("latest", ("--weights", "int8"))):
        with Suite(models(name).path, tmp_path / (name + str(len(more))), options=more, data=data):
            pass
    with Suite(models("early").path, tmp_path / "c", data=data) as suite, Dealer(suite.endpoint) as client:
        assert client.generate([1, 2, 3], 4)["tokens"]


@pytest.mark.parametrize("words", (
    ("nonsense",), ("up",), ("up", "--model"), ("up", "--model", "x", "--nonsense"),
    ("up", "--model", "x", "--cores", "many"), ("up", "--model", "x", "--cores", "0"), ("kv", "nonsense"),
    ("status", "--endpoint"), ("core", "--nonsense"), ("generate", "--max-new-tokens", "many"),
    ("status", "--timeout", "nan"), ("generate", "a", "--timeout", "1e300"), ("generate", "a", "--model", "x"),
    ("kv", "gc", "--keep-hours", "1e18"), ("kv", "stat", "--stage", "router"), ("up", "--model", "x", "--data", ""),
    ("up", "--model", "x", "--max-rows", "1000000000"),
    ("up", "--model", "x", "--endpoint", "tcp://127.0.0.1:99999"), ("up", "--model", "x", "--endpoint", "inproc://a"),
    ("core", "--model", "x", "--name", "../x"), ("core", "--model", "x", "--name", ""),
    ("bench", "kernels", "--inputs", "1000000000"), ("generate", "--tokens", "1,,3"), ("score", "--tokens", "1,2,"),
    ("generate", "a", "--local", "--model", "x", "--session", "s"), ("generate", "a", "--endpoint", "foo"),
    ("status", "--endpoint", "tcp://127.0.0.1"), ("top", "--endpoint", "127.0.0.1:5555"),
    ("eval", "--task", "mano", "--endpoint", "x")), ids=" ".join)
def test_a_usage_error_exits_64(words):
    done = run(*words)
    assert done.returncode == 64, done
    assert done.stderr.strip() and "NSCocoa" not in done.stderr and "Fatal" not in done.stderr


def test_a_data_folder_that_cannot_be_made_is_one_clear_line(model, tmp_path):
    (tmp_path / "file").touch()
    done = run("up", "--model", model.path, "--data", tmp_path / "file" / "data")
    assert done.returncode == 1 and "Not a directory" in done.stderr, done
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "command", ("", "up", "router", "decider", "core", "coda", "generate", "score", "status", "kv"))
def test_help_is_there(command):
    done = run(*command.split(), "--help")
    assert done.returncode == 0 and len(done.stdout) > 40


def test_status_without_a_suite_fails_in_bounded_time():
    done = run("status", "--endpoint", f"tcp://127.0.0.1:{free_port()}", timeout=20)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1


# --- running and stopping --------------------------------------------------------------------------------------

def test_the_ready_line_is_one_line_and_names_the_endpoint(suite):
    assert [line for line in suite.output if "ready" in line.lower()] == [suite.ready_line]
    assert suite.endpoint in suite.ready_line


def test_services_are_processes_told_apart_by_their_subcommand(suite):
    assert {kind: len(pids) for kind, pids in suite.workers().items()} == {
        "router": 1, "decider": 1, "core": 2, "coda": 1}


def test_workers_tell_each_other_when_they_compute(suite, model, client):
    """The page that they share: a count of the workers that came, then a line for each with its threads at byte 8."""
    def computing():
        page = (suite.data / "processors").read_bytes()
        assert len(page) == 4096
        return [int.from_bytes(page[64 * slot + 8:64 * slot + 12], "little") for slot in range(1, 64)]

    assert int.from_bytes((suite.data / "processors").read_bytes()[:4], "little") >= 4  # a decider, two cores, a coda
    prompts = [model.tokens(f"busy {index}", 60) for index in range(32)]
    ids = [client.send({"generate": {"tokens": prompt, "max_new_tokens": 60}}) for prompt in prompts]
    end = time.monotonic() + 10
    while not sum(computing()):  # without a pause: the requests take some tens of milliseconds
        assert time.monotonic() < end, "no worker says that it computes"
    client.collect(ids)
    wait_for(lambda: sum(computing()) == 0, 10, "workers that say they are idle")


def test_a_worker_at_the_clients_endpoint_says_so_once(suite, model, tmp_path):
    worker = subprocess.Popen([BINARY, "core", "--model", model.path, "--data", tmp_path, "--connect", suite.endpoint],
                              stderr=subprocess.PIPE, text=True)
    try:
        said = worker.stderr.readline()
        assert f"what answers at {suite.endpoint} does not speak worker protocol" in said and "--workers" in said
        time.sleep(2.5)  # it goes on asking
    finally:
        worker.terminate()
        worker.wait(20)
    assert worker.stderr.read() == ""


def test_anira_status_prints_json(suite):
    done = run("status", "--endpoint", suite.endpoint, "--json")
    assert done.returncode == 0, done
    assert '"core"' in done.stdout and isinstance(json.loads(done.stdout), dict)


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_a_stop_signal_leaves_nothing_behind(model, tmp_path, number):
    suite = Suite(model.path, tmp_path, cores=2, deciders=2, codas=2).start()
    with Dealer(suite.endpoint) as client:
        client.generate([1, 2, 3], 8, session="s")
    assert {k: len(p) for k, p in suite.workers().items()} == {"router": 1, "decider": 2, "core": 2, "coda": 2}
    assert suite.stop(number) == 0
    assert suite.left_files() == []


def test_a_stop_under_load_ends_every_request_and_leaves_nothing_behind(model, tmp_path):
    suite = Suite(model.path, tmp_path).start()
    with Dealer(suite.endpoint) as client:
        ids = [client.send({"generate": {"tokens": model.tokens(f"stop {i}", 10), "max_new_tokens": 60}})
               for i in range(12)]
        for _ in range(20):
            client.receive()
        suite.process.send_signal(signal.SIGTERM)
        endings = {}
        while len(endings) < len(ids):
            reply = client.receive(30)
            if reply.kind in ("completed", "error"):
                assert reply.id not in endings
                endings[reply.id] = reply
        assert all(r.kind == "completed" or r.content["code"] in ("UNAVAILABLE", "CANCELLED")
                   for r in endings.values())
    assert suite.stop() == 0
    assert suite.left_files() == []


def test_a_second_stop_signal_does_not_wait_for_what_still_runs(model, tmp_path):
    suite = Suite(model.path, tmp_path).start()
    (core,) = suite.workers()["core"]
    with Dealer(suite.endpoint) as client:
        os.kill(core, signal.SIGSTOP)
        try:
            client.send({"generate": {"tokens": [1, 2, 3], "max_new_tokens": 60}})
            with Dealer(suite.endpoint) as other:
                wait_for(lambda: other.one({"status": {}}).content["running"] == 1, 10, "a request that runs")
            suite.process.send_signal(signal.SIGTERM)
            wait_for(lambda: "a second signal" in suite.log(), 10, "word of what a second signal does")
            suite.process.send_signal(signal.SIGTERM)
            reply = client.receive(30)
            while reply.kind not in ("completed", "error"):
                reply = client.receive(30)
            assert reply.content["code"] == "UNAVAILABLE"
            wait_for(lambda: "stopped before 1 requests" in suite.log(), 10, "the Router's word")
        finally:
            os.kill(core, signal.SIGCONT)
    assert suite.stop() == 0
    assert suite.left_files() == []


def test_what_ran_goes_on_in_a_suite_started_the_moment_its_supervisor_was_killed(model, tmp_path):
    """The Router ended its requests as cancelled, and for a second a new suite was refused."""
    data, prompts = tmp_path / "data", [model.tokens(f"long {index}", 20) for index in range(8)]
    first = Suite(model.path, tmp_path / "a", data=data).start()
    first.workers()
    with Dealer(first.endpoint) as client:
        expected = [client.generate(prompt, 170)["tokens"] for prompt in prompts]
        requests = [{"generate": {"tokens": prompt, "max_new_tokens": 170}} for prompt in prompts]
        ids = [client.send(request) for request in requests]
        accepted = set()
        while accepted != set(ids):  # tokens of the first may come before the last is accepted
            reply = client.receive()
            accepted |= {reply.id} if reply.kind == "accepted" else set()
        os.kill(first.process.pid, signal.SIGKILL)
    with Suite(model.path, tmp_path / "b", data=data) as second, Dealer(second.endpoint) as client:
        wait_for(lambda: not any(alive(pid) for pid in first.seen), 5, "the services to leave")
        first.kill()
        for id, request in zip(ids, requests):
            client.send(request, id=id)
        replies = client.collect(ids, 30)
        assert [replies[id][-1].content.get("tokens") for id in ids] == expected, replies


def test_a_service_that_cannot_be_started_again_ends_the_suite_cleanly(model, tmp_path):
    """The supervisor trapped on the process that never was, and left files behind."""
    suite = Suite(model.path, tmp_path).start()
    (coda,) = suite.workers()["coda"]
    open_files = len(list(Path(f"/proc/{suite.process.pid}/fd").iterdir()))
    resource.prlimit(suite.process.pid, resource.RLIMIT_NOFILE, (open_files, open_files))
    os.kill(coda, signal.SIGKILL)
    assert suite.process.wait(40) == 1
    assert "cannot start coda-0" in suite.log() and "NSCocoa" not in suite.log()
    assert [path for path in suite.left_files() if "coda-0/owner.lock" not in str(path)] == []  # of the killed one


def test_five_starts_and_stops_on_one_data_folder_work(model, tmp_path):
    for i in range(5):
        with Suite(model.path, tmp_path / str(i), data=tmp_path / "data") as suite, Dealer(suite.endpoint) as client:
            assert client.score([1, 2, 3])["depths"]


# --- stopping while starting -----------------------------------------------------------------------------------

def mask(pid, name):
    """A signal mask of /proc/PID/status; 0 once the process has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(next((line.split()[1] for line in lines if line.startswith(f"{name}:")), "0"), 16)


@pytest.mark.parametrize("service", ("router", "decider", "core", "coda"))
def test_a_service_never_ignores_sigterm(model, tmp_path, service):
    """Between ignoring the signal and hearing of it, one that came was lost: the supervisor waited in vain."""
    endpoint = f"ipc://{tmp_path}/workers"
    place = ("--workers", endpoint, "--endpoint", f"ipc://{tmp_path}/clients") if service == "router" else \
        ("--connect", endpoint)
    process = subprocess.Popen([BINARY, service, "--model", model.path, "--data", tmp_path / "data", *place],
                               stderr=subprocess.DEVNULL)
    bit = 1 << (signal.SIGTERM - 1)
    deadline = time.monotonic() + 20
    try:
        while not mask(process.pid, "SigCgt") & bit and process.poll() is None and time.monotonic() < deadline:
            assert not mask(process.pid, "SigIgn") & bit
        assert mask(process.pid, "SigCgt") & bit
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
