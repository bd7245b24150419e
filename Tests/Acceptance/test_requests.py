"""A request's life: sessions, repeats, cancelling, deadlines, and what the suite says about itself."""

import pytest

from suite import Dealer, ask, fresh_id

SAMPLED = {"temperature": 1.5}      # without a seed: a second run would answer differently


def same(a, b):
    return all(a[k] == b[k] for k in ("tokens", "depths", "prompt_depths"))


# --- sessions --------------------------------------------------------------------------------------------------

def test_a_session_continued_over_requests_equals_one_long_request(client, model):
    name, include = fresh_id("session"), {"logprobs": True, "exit_distributions": True}
    history = []
    for turn, n in enumerate((9, 1, 20, 2)):
        prompt = model.tokens(f"turn {turn}", n)
        part = client.generate(prompt, 6, session=name, include=include)
        whole = client.generate(history + prompt, 6, include=include)
        assert part["tokens"] == whole["tokens"]
        assert part["depths"] == whole["depths"]
        assert part["logprobs"] == whole["logprobs"]
        assert part["exit_distributions"] == whole["exit_distributions"]
        assert part["prompt_depths"] == whole["prompt_depths"][len(history):]
        assert len(part["prompt_depths"]) == n
        history += prompt + part["tokens"]


def test_a_continued_session_computes_only_its_new_tokens(client, model):
    name = fresh_id("session")
    client.generate(model.tokens("long history", 120), 1, session=name)
    usage = client.generate([3, 4], 1, session=name)["usage"]
    assert usage["prompt_tokens"] == 2
    assert usage["core_iterations"] <= 3 * model.K


def test_sessions_of_different_names_do_not_see_each_other(client, model):
    a, b = fresh_id("a"), fresh_id("b")
    prompt = model.tokens("apart", 8)
    first = client.generate(prompt, 5, session=a)
    client.generate(model.tokens("other", 11), 5, session=b)
    again = client.generate([7], 5, session=a)
    assert same(again | {"prompt_depths": 0},
                client.generate(prompt + first["tokens"] + [7], 5) | {"prompt_depths": 0})


def test_requests_of_one_session_sent_at_once_run_one_after_the_other(client, model):
    name, prompts = fresh_id("session"), [model.tokens(f"burst {i}", 4) for i in range(6)]
    ids = [client.send({"generate": {"tokens": p, "max_new_tokens": 4, "session": name}}) for p in prompts]
    replies, history = client.collect(ids), []
    for id, prompt in zip(ids, prompts):
        tokens = replies[id][-1].content["tokens"]
        assert tokens == client.generate(history + prompt, 4)["tokens"]
        history += prompt + tokens


def test_a_session_ends_at_the_context_s_length(client, model):
    name = fresh_id("session")
    client.generate(model.tokens("nearly full", 180), 4, session=name)
    reply = client.end({"generate": {"tokens": [1] * 20, "session": name}})
    assert reply.content.get("code") == "CONTEXT_TOO_LONG"
    assert client.generate([1, 2], 2, session=name)["tokens"]


def test_a_dropped_session_starts_from_nothing(client, model):
    name, prompt = fresh_id("session"), model.tokens("dropped", 8)
    first = client.generate(prompt, 5, session=name)
    assert client.one({"drop_session": {"session": name}}).kind != "error"
    assert same(client.generate(prompt, 5, session=name), first)


def test_dropping_an_unknown_session_is_not_found(client):
    reply = client.one({"drop_session": {"session": fresh_id("nobody")}})
    assert reply.content["code"] == "NOT_FOUND"


# --- repeats ---------------------------------------------------------------------------------------------------

def test_the_same_id_again_gets_the_same_answer_without_running_again(suite, client, model):
    id, request = fresh_id(), {"generate": {"tokens": model.tokens("repeat", 6), "sampling": SAMPLED}}
    first = client.end(request, id=id).content
    assert client.end(request, id=id).content["tokens"] == first["tokens"]
    with Dealer(suite.endpoint) as other:
        assert other.end(request, id=id).content["tokens"] == first["tokens"]
    assert ask(suite.endpoint, {"id": id} | request).content["tokens"] == first["tokens"]


def test_the_same_id_sent_while_it_runs_gets_the_same_answer(suite, model):
    request = {"generate": {"tokens": model.tokens("join", 6), "max_new_tokens": 60, "sampling": SAMPLED}}
    clients, id = [Dealer(suite.endpoint) for _ in range(4)], fresh_id()
    for client in clients:
        client.send(request, id=id)
    answers = {tuple(client.collect([id])[id][-1].content["tokens"]) for client in clients}
    assert len(answers) == 1
    for client in clients:
        client.close()


def test_a_repeated_id_does_not_extend_its_session_twice(client, model):
    name, id, prompt = fresh_id("session"), fresh_id(), model.tokens("once", 5)
    request = {"generate": {"tokens": prompt, "max_new_tokens": 4, "session": name}}
    first = client.end(request, id=id).content["tokens"]
    assert client.end(request, id=id).content["tokens"] == first
    assert client.generate([9], 4, session=name)["tokens"] == client.generate(prompt + first + [9], 4)["tokens"]


def test_result_gives_the_answer_of_a_finished_request(suite, client, model):
    id = fresh_id()
    done = client.end({"generate": {"tokens": model.tokens("result", 6)}}, id=id).content
    reply = ask(suite.endpoint, {"id": fresh_id(), "result": {"id": id}})
    assert reply.kind == "completed" and same(reply.content, done)
    scored_id = fresh_id()
    scored = client.end({"score": {"tokens": [1, 2, 3]}}, id=scored_id).content
    assert client.one({"result": {"id": scored_id}}).content["logprobs"] == scored["logprobs"]


def test_result_of_a_running_request_ends_with_its_answer(suite, client, model):
    id = client.send({"generate": {"tokens": model.tokens("running", 6), "max_new_tokens": 100}})
    reply = ask(suite.endpoint, {"id": fresh_id(), "result": {"id": id}})
    done = client.collect([id])[id][-1].content
    if reply.kind == "error":       # asked before the request had arrived: two connections have no order
        assert reply.content["code"] == "NOT_FOUND"
    else:
        assert same(reply.content, done)


@pytest.mark.parametrize("operation", ("result", "cancel"))
def test_an_unknown_id_is_not_found(client, operation):
    assert client.one({operation: {"id": fresh_id("nobody")}}).content["code"] == "NOT_FOUND"


# --- cancelling and deadlines ----------------------------------------------------------------------------------

def test_a_cancelled_request_ends_in_cancelled(suite, client, model):
    prompt = model.tokens("cancelled", 5)
    for _ in range(8):      # a fast machine may finish before the cancel arrives
        id = client.send({"generate": {"tokens": prompt, "max_new_tokens": 180}})
        while client.receive(10).kind != "token":
            pass
        told = ask(suite.endpoint, {"id": fresh_id(), "cancel": {"id": id}})
        while (reply := client.receive(10)).kind == "token":
            pass
        assert reply.id == id
        if reply.kind == "error":
            assert reply.content["code"] == "CANCELLED"
            assert told.kind != "error"
            client.quiet()
            return
        assert reply.kind == "completed" and told.content.get("code") == "NOT_FOUND"
    pytest.fail("no cancel came in time in 8 attempts")


def test_a_cancelled_turn_leaves_its_session_as_it_was(suite, client, model):
    name, prompt = fresh_id("session"), model.tokens("kept", 6)
    first = client.generate(prompt, 3, session=name)["tokens"]
    id = client.send({"generate": {"tokens": [5], "max_new_tokens": 170, "session": name}})
    while client.receive(10).kind != "token":
        pass
    ask(suite.endpoint, {"id": fresh_id(), "cancel": {"id": id}})
    while (reply := client.receive(10)).kind == "token":
        pass
    history = prompt + first + ([5] + reply.content["tokens"] if reply.kind == "completed" else [])
    assert client.generate([8], 3, session=name)["tokens"] == client.generate(history + [8], 3)["tokens"]


def test_a_tiny_deadline_ends_the_request_and_never_hangs(client, model):
    codes = set()
    for deadline in (1, 2, 5, 20):
        reply = client.end({"generate": {"tokens": model.tokens("late", 100), "max_new_tokens": 90}},
                           seconds=5, deadline_ms=deadline)
        codes.add(reply.content.get("code", "completed"))
    assert codes <= {"DEADLINE_EXCEEDED", "completed"}
    assert client.score([1, 2, 3])["depths"]


def test_a_deadline_of_one_millisecond_is_exceeded_by_a_long_request(client, model):
    ids = [client.send({"generate": {"tokens": model.tokens(f"late {i}", 100), "max_new_tokens": 90}}, deadline_ms=1)
           for i in range(128)]  # longer than a tick of the Router takes
    endings = [replies[-1] for replies in client.collect(ids, 20).values()]
    assert any(e.content.get("code") == "DEADLINE_EXCEEDED" for e in endings)


def test_a_generous_deadline_changes_nothing(client, model):
    prompt, expected = model.generated("in time", 7, 10)
    assert client.end({"generate": {"tokens": prompt, "max_new_tokens": 10}},
                      deadline_ms=30_000).content["tokens"] == expected.tokens


# --- what the suite says about itself --------------------------------------------------------------------------

def test_status_lists_every_stage_with_its_workers(suite, client):
    status = client.one({"status": {}}).content
    stages = {stage["name"]: stage["workers"] for stage in status["stages"]}
    assert {name: len(workers) for name, workers in stages.items()} == {"decider": 1, "core": 2, "coda": 1}
    processes = suite.workers()
    for name, workers in stages.items():
        assert sorted(w["pid"] for w in workers) == sorted(processes[name])
    assert status["version"]


def test_status_answers_a_req_client(suite):
    assert ask(suite.endpoint, {"id": fresh_id(), "status": {}}).kind == "status"


def test_models_describes_the_checkpoint(client, model):
    (described,) = client.one({"models": {}}).content["models"]
    for field in ("decider", "max_depth", "vocab_size", "hidden_size", "max_position_embeddings"):
        assert described[field] == model.config[field]
    assert {"model", "fixed", "per_token", "argmax", "cdf", "mean"} <= set(described["policies"])
