"""The shape of answers: streams, single replies, text, both encodings."""

import json

import numpy as np
import pytest

from checkpoints import vocabulary
from suite import Dealer, ask, fresh_id, run


def without_timing(content):
    return {k: v for k, v in content.items() if k != "timing"}


@pytest.fixture
def case(model):
    return model.generated("stream", 7, 10)


def test_a_stream_is_accepted_then_every_token_in_order_then_completed(client, case):
    prompt, expected = case
    replies = client.stream({"generate": {"tokens": prompt, "max_new_tokens": 10}})
    assert [r.kind for r in replies] == ["accepted"] + ["token"] * 10 + ["completed"]
    assert replies[0].content["durability"]
    tokens = [r.content for r in replies[1:-1]]
    assert [t["index"] for t in tokens] == list(range(10))
    assert [t["token"] for t in tokens] == replies[-1].content["tokens"] == expected.tokens
    assert [t["depth"] for t in tokens] == replies[-1].content["depths"] == expected.depths
    client.quiet()


def test_a_stream_carries_logprobs_and_exit_distributions_when_asked_for(client, case):
    prompt, expected = case
    replies = client.stream({"generate": {"tokens": prompt, "max_new_tokens": 10,
                                          "include": {"logprobs": True, "exit_distributions": True}}})
    tokens, done = [r.content for r in replies if r.kind == "token"], replies[-1].content
    assert [t["logprob"] for t in tokens] == done["logprobs"] == pytest.approx(expected.logprobs, abs=2e-3)
    streamed = np.array([t["exit_distribution"] for t in tokens], np.float32)
    assert streamed.shape == (10, 6)
    assert (streamed == np.array(done["exit_distributions"], np.float32)).all()


def test_logprobs_and_exit_distributions_stay_away_when_not_asked_for(client, case):
    done = client.generate(case[0], 4)
    assert not done.get("logprobs") and not done.get("exit_distributions")


def test_stream_false_sends_no_tokens(client, case):
    replies = client.stream({"generate": {"tokens": case[0], "max_new_tokens": 10, "stream": False}})
    assert [r.kind for r in replies if r.kind != "accepted"] == ["completed"]
    assert replies[-1].content["tokens"] == case[1].tokens
    client.quiet()


@pytest.mark.parametrize("stream", (None, True, False))
def test_a_req_client_gets_exactly_one_reply(suite, case, stream):
    body = {"id": fresh_id(), "generate": {"tokens": case[0], "max_new_tokens": 10}}
    if stream is not None:
        body["generate"]["stream"] = stream
    reply = ask(suite.endpoint, body)
    assert (reply.id, reply.kind) == (body["id"], "completed")
    assert reply.content["tokens"] == case[1].tokens


def test_one_req_socket_serves_many_requests_in_turn(suite, case):
    for _ in range(5):
        assert ask(suite.endpoint, {"id": fresh_id(), "score": {"tokens": case[0]}}).kind == "scored"


def test_a_dealer_that_sends_an_empty_frame_gets_one_back(suite, case):
    with Dealer(suite.endpoint) as client:
        id = fresh_id()
        client.send_frames(b"", json.dumps({"id": id, "score": {"tokens": case[0]}}).encode())
        replies = client.collect([id])[id]
        assert all(r.envelope for r in replies)
        assert replies[-1].kind == "scored"
        client.quiet()


def test_default_length_is_16_tokens(client, model):
    prompt, expected = model.generated("default length", 5, 16)
    done = client.end({"generate": {"tokens": prompt}}).content
    assert done["tokens"] == expected.tokens
    assert done["finish_reason"] == "length"


def test_a_stop_token_ends_the_answer_and_is_its_last_token(client, model):
    prompt, free = model.generated("stop", 7, 10)
    stop = free.tokens[4]
    end = free.tokens.index(stop) + 1
    done = client.generate(prompt, 10, stop_tokens=[stop])
    assert done["tokens"][:end - 1] == free.tokens[:end - 1]
    assert done["finish_reason"] == "stop"
    assert done["tokens"] == free.tokens[:end]


def test_a_full_context_ends_the_answer(client, model):
    done = client.generate(model.tokens("full", 190), 20)
    assert done["finish_reason"] not in ("length", "stop")
    assert 2 <= len(done["tokens"]) <= 3
    assert len(done["depths"]) == len(done["tokens"])


@pytest.mark.parametrize("shown", ([], ["--depths"], ["--json"]))
def test_the_command_says_that_the_context_is_full(suite, model, shown):
    tokens = ",".join(map(str, model.tokens("full", 190)))
    for new, is_full in ((1, False), (20, True)):
        done = run("generate", "--endpoint", suite.endpoint, "--max-new-tokens", new, "--tokens", tokens, *shown)
        assert done.returncode == 0, done.stderr
        assert ("context is full" in done.stderr) == (is_full and shown != ["--json"])


def test_text_is_words_of_the_vocabulary(client, model, case):
    prompt, expected = case
    words = vocabulary(model.vocabulary)
    replies = client.stream({"generate": {"text": " ".join(words[t] for t in prompt), "max_new_tokens": 10}})
    done = replies[-1].content
    assert done["tokens"] == expected.tokens
    assert done["text"].split() == [words[t] for t in expected.tokens]
    assert [r.content["text"].strip() for r in replies if r.kind == "token"] == done["text"].split()


def test_text_may_be_scored(client, model, case):
    words = vocabulary(model.vocabulary)
    by_text = client.end({"score": {"text": "  ".join(words[t] for t in case[0]) + "\n"}}).content
    assert without_timing(by_text) == without_timing(client.score(case[0]))


def test_protobuf_and_json_clients_get_equal_answers(suite, model, case, proto):
    include = {"exit_distributions": True, "logprobs": True}
    requests = [
        {"generate": {"tokens": case[0], "max_new_tokens": 10, "include": include}},
        {"generate": {"tokens": case[0], "max_new_tokens": 6, "depth": {"policy": "fixed", "value": 2}}},
        {"score": {"tokens": case[0], "depth": {"policy": "cdf", "threshold": 0.7},
                   "include": {"exit_distributions": True, "logits": True}}},
        {"models": {}},
    ]
    with Dealer(suite.endpoint, proto) as client:
        for request in requests:
            if "models" in request:
                json_replies, proto_replies = [client.one(request)], [client.one(request, binary=True)]
            else:
                json_replies, proto_replies = client.stream(request), client.stream(request, binary=True)
            assert [r.kind for r in json_replies] == [r.kind for r in proto_replies]
            for a, b in zip(json_replies, proto_replies):
                assert without_timing(a.content) == without_timing(b.content)
                assert a.frames == b.frames
        client.quiet()


def test_a_protobuf_req_client_gets_a_protobuf_reply(suite, case, proto):
    raw = proto.to_bytes({"id": fresh_id(), "score": {"tokens": case[0]}})
    reply = ask(suite.endpoint, raw, proto=proto)
    assert reply.kind == "scored" and len(reply.content["depths"]) == len(case[0])


def test_timing_names_the_stages(client, case):
    for n in (4, 60):
        timing = client.generate(case[0] * 6, n)["timing"]
        parts = [part for stage in ("decider", "core", "coda") for part in timing[stage].values()]
        assert len(parts) == 15 and min(parts) >= 0 and timing["router_ms"] >= 0
        # Every instant counts once.
        assert sum(parts) + timing["router_ms"] == pytest.approx(timing["total_ms"], rel=0.02)
        assert timing["core"]["compute_ms"] > 0
