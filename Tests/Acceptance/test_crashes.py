"""kill -9 of any one process under load: every request still ends, exactly once, with the right answer."""

import json
import os
import random
import signal
import subprocess
import time

import pytest

from suite import BINARY, ROOT, Dealer, Suite, fresh_id, wait_for

REQUESTS, NEW_TOKENS = 24, 48


@pytest.fixture(scope="module")
def suite(binary, model, tmp_path_factory):
    with Suite(model.path, tmp_path_factory.mktemp("crashes"), cores=2) as suite:
        yield suite


@pytest.fixture(scope="module")
def work(suite, model):
    """Requests and their undisturbed answers."""
    requests = [{"tokens": model.tokens(f"crash {i}", 3 + i % 40), "max_new_tokens": NEW_TOKENS,
                 "include": {"logprobs": True}} for i in range(REQUESTS)]
    with Dealer(suite.endpoint) as client:
        return [(r, client.end({"generate": r}, 20).content) for r in requests]


def check(replies, expected):
    """One undisturbed-looking stream."""
    done = replies[-1]
    assert done.kind == "completed", done
    for key in ("tokens", "depths", "prompt_depths", "logprobs"):
        assert done.content[key] == expected[key], f"{key} of {done.id} changed by the crash"
    streamed = [r.content for r in replies if r.kind == "token"]
    assert [t["index"] for t in streamed] == list(range(NEW_TOKENS))
    assert [t["token"] for t in streamed] == expected["tokens"]


def whole(suite, counts):
    """All workers are back and the suite says so, of the processes that run now."""
    workers = suite.workers()
    if {kind: len(pids) for kind, pids in workers.items()} != counts:
        return False
    with Dealer(suite.endpoint) as client:
        try:
            stages = client.one({"status": {}}, 2).content["stages"]
        except TimeoutError:
            return False
        ready = {s["name"]: {w["pid"] for w in s.get("workers", []) if w["state"] == "ready"} for s in stages}
        return all(ready.get(kind) == set(workers[kind]) for kind in ("decider", "core", "coda"))


def end_one_under_load(suite, work, victim, number, wanted):
    """Sends a process the signal after so many tokens; every request ends as undisturbed."""
    with Dealer(suite.endpoint) as client:
        expected = {client.send({"generate": request}): answer for request, answer in work}
        early = []
        while sum(r.kind == "token" for r in early) < wanted:
            early.append(client.receive(20))
        os.kill(victim, number)
        ended = {r.id for r in early if r.kind == "completed"}
        assert len(ended) < REQUESTS, "nothing was running when the worker ended"
        replies = {id: [r for r in early if r.id == id] for id in expected}
        for id, more in client.collect(set(expected) - ended, 60).items():
            replies[id] += more
        for id, answer in expected.items():
            check(replies[id], answer)
        client.quiet(0.5)


@pytest.mark.parametrize("seed", (1, 2))
@pytest.mark.parametrize("kind", ("decider", "core", "coda"))
def test_a_killed_worker_loses_no_request_and_changes_no_answer(suite, work, kind, seed):
    chance = random.Random(f"{kind} {seed}")
    counts = {k: len(pids) for k, pids in suite.workers().items()}
    victim = chance.choice(suite.workers()[kind])
    end_one_under_load(suite, work, victim, signal.SIGKILL, chance.randrange(10, REQUESTS * NEW_TOKENS // 3))
    wait_for(lambda: whole(suite, counts), 20, f"a new {kind}")
    assert victim not in suite.workers()[kind]


@pytest.mark.parametrize("number", (signal.SIGABRT, signal.SIGTRAP))
@pytest.mark.parametrize("kind", ("router", "core"))
def test_what_crashes_is_started_again_at_once(suite, kind, number):
    """A library's abort, a trap: the runtime's report came first, and could hang, the process with it."""
    counts = {k: len(pids) for k, pids in suite.workers().items()}
    victim = suite.workers()[kind][0]
    os.kill(victim, number)
    wait_for(lambda: victim not in suite.workers()[kind], 20, "its end")
    wait_for(lambda: whole(suite, counts), 20, f"a new {kind}")


def test_a_signal_from_outside_is_no_damage(suite, work):
    """One that came while the store was read or written was taken for a fault in it, and the store was set aside."""
    counts = {k: len(pids) for k, pids in suite.workers().items()}
    with Dealer(suite.endpoint) as client:
        for _ in range(4):
            for request, _ in work:
                client.send({"generate": request})
            time.sleep(0.3)  # some of it spent in the store
            for kind in ("decider", "core", "coda"):
                for victim in suite.workers()[kind]:
                    os.kill(victim, signal.SIGABRT)
            wait_for(lambda: whole(suite, counts), 20, "new workers")
    assert not list(suite.data.rglob("*.damaged"))


def test_a_worker_that_is_stopped_hands_its_sessions_over(suite, work):
    """It left between two tokens, and its sessions waited for it as for one that was killed."""
    def lost():
        with Dealer(suite.endpoint) as client:
            return client.one({"status": {}}).content["counters"].get("workers_lost", 0)
    counts = {k: len(pids) for k, pids in suite.workers().items()}
    before = lost()
    end_one_under_load(suite, work, suite.workers()["core"][0], signal.SIGTERM, 10)
    assert lost() == before
    wait_for(lambda: whole(suite, counts), 20, "a new core")


@pytest.mark.parametrize("kind", ("decider", "core", "coda"))
def test_a_session_survives_its_worker(suite, model, kind):
    name, prompt = fresh_id("session"), model.tokens("survivor", 30)
    counts = {k: len(pids) for k, pids in suite.workers().items()}
    with Dealer(suite.endpoint) as client:
        first = client.generate(prompt, 6, session=name)
        for victim in suite.workers()[kind]:
            os.kill(victim, signal.SIGKILL)
        second = client.generate([4, 5], 6, session=name, seconds=40)
        fresh = client.generate(prompt + first["tokens"] + [4, 5], 6)
        assert (second["tokens"], second["depths"]) == (fresh["tokens"], fresh["depths"])
    wait_for(lambda: whole(suite, counts), 20, f"a new {kind}")


def test_after_the_router_is_killed_resent_ids_get_the_right_answers(suite, work):
    counts = {k: len(pids) for k, pids in suite.workers().items()}
    (victim,) = suite.workers()["router"]
    with Dealer(suite.endpoint) as client:
        ids = [client.send({"generate": request}) for request, _ in work]
        for _ in range(60):
            client.receive(20)
        os.kill(victim, signal.SIGKILL)
    wait_for(lambda: whole(suite, counts), 30, "a new router with all its workers")
    with Dealer(suite.endpoint) as client:
        for id, (request, _) in zip(ids, work):
            client.send({"generate": request}, id=id)
        for id, replies in client.collect(ids, 60).items():
            expected = work[ids.index(id)][1]
            assert replies[-1].content.get("tokens") == expected["tokens"], replies[-1]
            assert replies[-1].content["depths"] == expected["depths"]


def kill_router(suite):
    (victim,) = suite.workers()["router"]
    os.kill(victim, signal.SIGKILL)


def test_the_python_client_goes_on_beyond_the_router(suite, work, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "clients/python"))
    from anira_client import Anira
    counts = {k: len(pids) for k, pids in suite.workers().items()}
    request, answer = work[0]
    with Anira(suite.endpoint, timeout=20) as anira:
        stream = anira.generate(request["tokens"], max_new_tokens=NEW_TOKENS, stream=True)
        events = [next(stream)]
        kill_router(suite)
        events += stream
    assert events[-1]["tokens"] == answer["tokens"]
    assert [e["token"] for e in events[:-1]] == answer["tokens"][:len(events) - 1]
    wait_for(lambda: whole(suite, counts), 30, "a new router with all its workers")


def test_the_command_goes_on_beyond_the_router(suite, work):
    counts = {k: len(pids) for k, pids in suite.workers().items()}
    request, answer = work[0]
    words = [BINARY, "generate", "--endpoint", suite.endpoint, "--timeout", "20", "--max-new-tokens", NEW_TOKENS,
             "--tokens", ",".join(map(str, request["tokens"]))]
    command = subprocess.Popen([*map(str, words), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [command.stdout.readline() for _ in range(2)]
    kill_router(suite)
    lines += command.stdout.readlines()  # communicate() would lose what readline() has read ahead
    assert command.wait(30) == 0, command.stderr.read()
    replies = [json.loads(line) for line in lines]
    assert replies[-1]["completed"]["tokens"] == answer["tokens"]
    said = [r["token"]["token"] for r in replies if "token" in r]
    assert said == answer["tokens"][:len(said)]
    assert ["accepted" in r for r in replies] == [True] + [False] * (len(replies) - 1)
    wait_for(lambda: whole(suite, counts), 30, "a new router with all its workers")


@pytest.mark.parametrize("seconds", (3, 8))
def test_a_router_that_stood_still_has_its_workers_back(suite, work, seconds):
    """Their connections had timed out, and new ones of the same id were ignored for good."""
    counts = {k: len(pids) for k, pids in suite.workers().items()}
    (router,) = suite.workers()["router"]
    request, answer = work[0]
    with Dealer(suite.endpoint) as client:
        id = client.send({"generate": request})
        client.receive(20)
        os.kill(router, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(router, signal.SIGCONT)
        assert client.collect([id], 20)[id][-1].content["tokens"] == answer["tokens"]
    wait_for(lambda: whole(suite, counts), 10, "all workers")


def test_the_suite_serves_as_before_after_all_that(suite, work):
    with Dealer(suite.endpoint) as client:
        for request, answer in work[:4]:
            done = client.end({"generate": request}).content
            assert all(done[k] == answer[k] for k in ("tokens", "depths", "prompt_depths", "logprobs"))
