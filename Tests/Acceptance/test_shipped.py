"""The shipped checkpoints, the Python client, and the ten lines that the README shows."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reference import Reference
from suite import BINARY, ROOT, SHIPPED, Dealer, Suite, ask, fresh_id, free_port, wait_for

CLIENT = ROOT / "clients/python"
NAMES = sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))
MANO = ("mano-early", "mano-online")


def serve(name, shipped, tmp_path_factory):
    folder = shipped(name)
    with Suite(folder, tmp_path_factory.mktemp(name)) as suite:
        yield suite, json.loads((folder / "expected.json").read_text())


@pytest.fixture(scope="module", params=NAMES)
def served(request, binary, shipped, tmp_path_factory):
    yield from serve(request.param, shipped, tmp_path_factory)


@pytest.fixture(scope="module", params=MANO)
def mano(request, binary, shipped, tmp_path_factory):
    yield from serve(request.param, shipped, tmp_path_factory)


def test_all_the_models_are_there():
    assert set(MANO) <= set(NAMES)
    assert all(sum(file.stat().st_size for file in (SHIPPED / name).iterdir()) < 4 << 20 for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_agrees_with_the_shipped_expectations(shipped, name):
    folder = shipped(name)
    model, expected = Reference(folder), json.loads((folder / "expected.json").read_text())
    for item in expected["infer"]:
        found = model.infer(item["tokens"])
        assert found.depths == item["depths"]
        assert np.abs(found.logits - np.array(item["logits"])).max() < 1e-4


def test_every_problem_gets_the_expected_answer_and_depths(served):
    suite, expected = served
    for item in expected["prompts"]:
        reply = ask(suite.endpoint, {"id": fresh_id(), "generate": {
            "text": item["text"], "max_new_tokens": len(item["new_tokens"])}})
        assert reply.content["text"].strip() == item["answer"], item["text"]
        assert reply.content["tokens"] == item["new_tokens"]
        assert reply.content["prompt_depths"] == item["depths"], item["text"]
        assert reply.content["depths"] == item["new_depths"]


def test_logits_of_the_shipped_cases_are_within_tolerance(served):
    suite, expected = served
    with Dealer(suite.endpoint) as client:
        for item in expected["infer"]:
            reply = client.end({"score": {"tokens": item["tokens"], "include": {"logits": True}}})
            logits = np.frombuffer(reply.frames[0], "<f4").reshape(reply.content["logits"]["shape"])
            assert reply.content["depths"] == item["depths"]
            assert np.abs(logits - np.array(item["logits"])).max() < 1e-4


# --- clients/python --------------------------------------------------------------------------------------------

@pytest.fixture
def anira_client(monkeypatch):
    monkeypatch.syspath_prepend(str(CLIENT))
    import anira_client
    return anira_client


def test_the_ten_lines_print_the_answer_and_its_depths(mano):
    suite, expected = mano
    done = subprocess.run([sys.executable, CLIENT / "ten_lines.py", suite.endpoint], capture_output=True, text=True,
                          timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "4"       # 3 + 2 * 4 = 11, which is 4 modulo 7
    lines = [line for line in (CLIENT / "ten_lines.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 10


def test_the_client_generates_scores_and_streams(mano, anira_client):
    suite, expected = mano
    item = expected["prompts"][0]
    with anira_client.Anira(suite.endpoint) as anira:
        done = anira.generate(item["text"], max_new_tokens=1)
        assert done["text"].strip() == item["answer"] and done["prompt_depths"] == item["depths"]
        events = list(anira.generate(item["tokens"], max_new_tokens=3, stream=True))
        assert [e["index"] for e in events[:-1]] == [0, 1, 2]
        assert events[-1]["tokens"] == [e["token"] for e in events[:-1]]
        assert len(anira.score(item["tokens"])["logprobs"]) == len(item["tokens"]) - 1
        assert anira.status()["stages"] and anira.models()
        anira.generate(item["text"], max_new_tokens=1, session="client-test")
        anira.drop_session("client-test")


def test_a_stream_let_go_is_cancelled_and_an_open_id_is_not_sent_twice(mano, anira_client):
    suite, expected = mano
    tokens = expected["prompts"][0]["tokens"]
    with anira_client.Anira(suite.endpoint) as anira:
        stream = anira.generate(tokens, max_new_tokens=20, stream=True, id=fresh_id())
        first = next(stream)
        with pytest.raises(ValueError, match="still open"):
            anira.generate(tokens, max_new_tokens=20, id=stream._id)
        assert [first["index"], *(e["index"] for e in stream if "index" in e)] == list(range(20))
        never = anira.generate(tokens, max_new_tokens=40, stream=True)      # not even begun
        id = never._id
        del never
        assert not anira._open
        with pytest.raises(anira_client.AniraError):
            anira.result(id)


def test_a_prompt_beyond_the_largest_body_is_told(mano):
    suite, _ = mano
    for command in ("generate", "score"):
        done = subprocess.run([BINARY, command, "--endpoint", suite.endpoint, "-"], input="1 " * 300_000,
                              capture_output=True, text=True, timeout=30)
        assert done.returncode == 1 and "CONTEXT_TOO_LONG" in done.stderr, done


def test_a_standard_input_that_cannot_be_read_is_one_clear_line(mano, tmp_path):
    suite, _ = mano
    folder = os.open(tmp_path, os.O_RDONLY)
    done = subprocess.run([BINARY, "generate", "--endpoint", suite.endpoint, "-"], stdin=folder, capture_output=True,
                          text=True, timeout=30)
    os.close(folder)
    assert done.returncode in (1, 64) and "Is a directory" in done.stderr and "Fatal" not in done.stderr, done


def test_the_client_raises_what_the_suite_answers(mano, anira_client):
    suite, _ = mano
    with anira_client.Anira(suite.endpoint) as anira:
        with pytest.raises(anira_client.AniraError) as caught:
            anira.generate("<bos> nonsense")
        assert caught.value.code == "INVALID_ARGUMENT" and "nonsense" in str(caught.value)
        with pytest.raises(anira_client.AniraError, match="NOT_FOUND"):
            anira.result("nobody-asked-this")
        with pytest.raises(anira_client.AniraError, match="NOT_FOUND"):
            anira.cancel("nobody-asked-this")


def test_the_client_raises_what_comes_without_an_id(mano, anira_client):
    suite, _ = mano
    with anira_client.Anira(suite.endpoint) as anira:
        with pytest.raises(anira_client.AniraError, match="CONTEXT_TOO_LONG"):
            anira.generate([1] * 500_000)
        with pytest.raises(ValueError):
            anira.generate([1], depth={"policy": "cdf", "threshold": float("nan")})
        with pytest.raises(TypeError):
            anira.generate([1], id=5)


def test_generate_reads_standard_input_and_tells_when_it_cannot_write(mano, tmp_path):
    suite, expected = mano
    item = expected["prompts"][0]
    command = [BINARY, "generate", "--endpoint", suite.endpoint, "--max-new-tokens", "1", "-"]
    done = subprocess.run(command, input=item["text"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout.strip()) == (0, item["answer"]), done

    def no_files():  # as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    for words in (command, [*command, "--json"], [BINARY, "status", "--endpoint", suite.endpoint]):
        with open(tmp_path / "out", "w") as out:
            done = subprocess.run(words, input=item["text"], stdout=out, stderr=subprocess.PIPE, text=True, timeout=30,
                                  preexec_fn=no_files)
        assert done.returncode == 1 and "File too large" in done.stderr, done


@pytest.mark.parametrize("words, count", [
    (("generate", "--tokens", "1,2,3"), 1),
    (("eval", "--task", "mano", "--modulus", "7", "--rows", "4", "--sizes", "1,2"), 8)])
def test_an_interrupted_command_cancels_its_requests(mano, words, count):
    suite, _ = mano
    (core,) = suite.workers()["core"]
    os.kill(core, signal.SIGSTOP)
    try:
        process = subprocess.Popen([BINARY, *words, "--endpoint", suite.endpoint])
        wait_for(lambda: suite_status(suite)["running"] == count, 10, "the requests")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert suite_status(suite)["running"] == 0
    finally:
        os.kill(core, signal.SIGCONT)


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_generate_whose_reader_has_gone_cancels_its_request(tmp_path, more):
    with Suite(ROOT / "checkpoints/lano-early", tmp_path) as suite:
        (core,) = suite.workers()["core"]
        os.kill(core, signal.SIGSTOP)
        command = [BINARY, "generate", "--endpoint", suite.endpoint, "--tokens", "1,2,3", "--depth", "6",
                   "--max-new-tokens", "500", *more]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for(lambda: suite_status(suite)["running"] == 1, 10, "the request")
        process.stdout.close()
        os.kill(core, signal.SIGCONT)
        assert (process.wait(20), process.stderr.read()) == (0, b"")
        status = suite_status(suite)
        assert (status["running"], status["counters"].get("completed", 0)) == (0, 0)


@pytest.mark.parametrize("dial, policy", [
    (("--depth", "2"), "fixed"), (("--threshold", "0.2"), "cdf"), (("--token-depths", "1,2,3,1"), "per_token")])
def test_a_setting_of_the_depth_dial_says_its_policy(mano, dial, policy):
    suite, _ = mano
    command = [BINARY, "score", "--endpoint", suite.endpoint, "--tokens", "1,2,3,4", *dial]
    alone, named = (subprocess.run(words, capture_output=True, text=True, timeout=30)
                    for words in (command, [*command, "--policy", policy]))
    assert (alone.returncode, alone.stdout) == (0, named.stdout), alone
    other = "cdf" if policy != "cdf" else "fixed"
    contradicted = subprocess.run([*command, "--policy", other], capture_output=True, text=True, timeout=30)
    assert contradicted.returncode == 1 and "INVALID_ARGUMENT" in contradicted.stderr, contradicted


def suite_status(suite):
    return ask(suite.endpoint, {"id": fresh_id(), "status": {}}).content


def test_the_client_times_out_when_nobody_answers(anira_client):
    with anira_client.Anira(f"tcp://127.0.0.1:{free_port()}", timeout=0.2) as anira:
        with pytest.raises(anira_client.AniraTimeout):
            anira.status()


def test_a_stream_left_early_is_cancelled_and_the_client_goes_on(mano, anira_client):
    suite, expected = mano
    item = expected["prompts"][0]
    with anira_client.Anira(suite.endpoint) as anira:
        for event in anira.generate(item["tokens"], max_new_tokens=50, stream=True):
            break
        assert anira.generate(item["text"], max_new_tokens=1)["text"].strip() == item["answer"]


def test_the_readme_shows_the_ten_lines_that_are_tested():
    root = Path(__file__).resolve().parents[2]
    assert (root / "clients/python/ten_lines.py").read_text() in (root / "README.md").read_text()
