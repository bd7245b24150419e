"""Bad input costs nobody else anything: one typed error that names the field, and the next request is served."""

import json

import pytest

from suite import Dealer, ask, fresh_id

GOOD = {"tokens": [5, 6, 7]}


def generate(**fields):
    return lambda m: {"generate": GOOD | fields}


def score(**fields):
    return lambda m: {"score": GOOD | fields}


# What is wrong → (request of the model, words of which one must be in the message).
REQUESTS = {
    "no operation": (lambda m: {}, ["operation"]),
    "unknown operation": (lambda m: {"explode": {}}, ["explode", "operation"]),
    "two operations": (lambda m: {"generate": GOOD, "score": GOOD}, ["operation", "generate", "score"]),
    "unknown field": (generate(flavour=3), ["flavour"]),
    "no tokens": (lambda m: {"generate": {}}, ["tokens"]),
    "empty tokens": (lambda m: {"score": {"tokens": []}}, ["tokens"]),
    "token above the vocabulary": (lambda m: {"generate": {"tokens": [1, m.vocabulary]}}, ["tokens"]),
    "negative token": (lambda m: {"score": {"tokens": [-1]}}, ["tokens"]),
    "token beyond 32 bits": (lambda m: {"score": {"tokens": [1 << 40]}}, ["tokens"]),
    "fractional token": (lambda m: {"score": {"tokens": [1.5]}}, ["tokens"]),
    "tokens that are words": (lambda m: {"generate": {"tokens": ["w3"]}}, ["tokens"]),
    "tokens that are no list": (lambda m: {"generate": {"tokens": 5}}, ["tokens"]),
    "tokens and text": (generate(text="w3"), ["text", "tokens"]),
    "unknown word": (lambda m: {"generate": {"text": "w3 nonsense w4"}}, ["text", "nonsense"]),
    "negative max_new_tokens": (generate(max_new_tokens=-1), ["max_new_tokens"]),
    "max_new_tokens as text": (generate(max_new_tokens="many"), ["max_new_tokens"]),
    "unknown stop token": (generate(stop_tokens=[999]), ["stop_tokens"]),
    "stream as a number": (generate(stream=7), ["stream"]),
    "prompt one too long": (lambda m: {"generate": {"tokens": [1] * (m.config["max_position_embeddings"] + 1)}},
                            ["tokens"]),
    "score far too long": (lambda m: {"score": {"tokens": [1] * 5000}}, ["tokens"]),
    "fixed depth 0": (generate(depth={"policy": "fixed", "value": 0}), ["depth"]),
    "fixed depth beyond K": (lambda m: {"score": GOOD | {"depth": {"policy": "fixed", "value": m.K + 1}}}, ["depth"]),
    "fixed depth without a value": (generate(depth={"policy": "fixed"}), ["value", "depth"]),
    "per_token list too short": (score(depth={"policy": "per_token", "values": [1, 2]}), ["values"]),
    "per_token list too long": (score(depth={"policy": "per_token", "values": [1, 2, 3, 1]}), ["values"]),
    "per_token depth beyond K": (lambda m: {"score": GOOD | {"depth": {"policy": "per_token",
                                                                      "values": [1, m.K + 1, 1]}}}, ["values"]),
    "per_token depth 0": (score(depth={"policy": "per_token", "values": [1, 0, 1]}), ["values"]),
    "unknown policy": (generate(depth={"policy": "deepest"}), ["policy"]),
    "threshold above 1": (generate(depth={"policy": "cdf", "threshold": 1.5}), ["threshold"]),
    "negative threshold": (score(depth={"policy": "cdf", "threshold": -0.1}), ["threshold"]),
    "threshold not a number": (score(depth={"policy": "cdf", "threshold": "NaN"}), ["threshold"]),
    "min 0": (generate(depth={"policy": "model", "min": 0}), ["min"]),
    "max beyond K": (lambda m: {"generate": GOOD | {"depth": {"policy": "model", "max": m.K + 1}}}, ["max"]),
    "min above max": (generate(depth={"policy": "model", "min": 4, "max": 2}), ["min", "max"]),
    "negative temperature": (generate(sampling={"temperature": -1}), ["temperature"]),
    "infinite temperature": (generate(sampling={"temperature": "Infinity"}), ["temperature"]),
    "negative top_k": (generate(sampling={"temperature": 1, "top_k": -1}), ["top_k"]),
    "top_p 0": (generate(sampling={"temperature": 1, "top_p": 0}), ["top_p"]),
    "top_p above 1": (generate(sampling={"temperature": 1, "top_p": 1.5}), ["top_p"]),
    "negative deadline": (lambda m: {"generate": GOOD, "deadline_ms": -5}, ["deadline"]),
    "drop_session without a name": (lambda m: {"drop_session": {}}, ["session"]),
}

# Bodies that are no request at all; the answer may carry no id.
BODIES = {
    "cut JSON": b'{"id": "x", "generate": {"tokens": [1, 2',
    "not JSON after the brace": b"{hello}",
    "plain text": b"hello there",
    "a JSON list": b"[1, 2, 3]",
    "an empty body": b"",
    "a zero byte": b"\0",
    "invalid UTF-8 in a string": b'{"id": "\xff\xfe", "score": {"tokens": [1]}}',
    "ten thousand braces": b'{"a":' * 10_000,
    "random bytes": bytes((i * 73 + 41) % 251 for i in range(300)),
}


def check(reply, words=()):
    assert reply.kind == "error", reply
    assert reply.content["code"] in ("INVALID_ARGUMENT", "CONTEXT_TOO_LONG"), reply
    assert not words or any(word in reply.content["message"] for word in words), reply.content["message"]


def check_still_serves(client):
    client.quiet(0.05)
    assert client.score([5, 6, 7])["depths"]


@pytest.mark.parametrize("what", REQUESTS)
def test_a_bad_request_gets_one_error_naming_the_field(client, model, what):
    make, words = REQUESTS[what]
    id = client.send(make(model))
    reply = client.receive(5)
    assert reply.id == id
    check(reply, words)
    assert (reply.content["code"] == "CONTEXT_TOO_LONG") == ("too long" in what and "list" not in what)
    check_still_serves(client)


@pytest.mark.parametrize("what", ("unknown operation", "negative token", "score far too long", "unknown policy"))
def test_a_bad_request_over_req_gets_its_one_reply(suite, model, what):
    make, words = REQUESTS[what]
    check(ask(suite.endpoint, {"id": fresh_id()} | make(model), 5), words)


def test_a_message_larger_than_any_request_is_not_read(client):
    """Reading, and looking for what is wrong, took the Router half a minute for 3 MB, in which workers were lost."""
    tokens = "1," * 1_000_000
    for end in ("1]}}", '"x"]}}'):
        client.send_frames(('{"id":"large","generate":{"tokens":[' + tokens + end).encode())
        reply = client.receive(5)
        assert reply.kind == "error" and reply.content["code"] == "CONTEXT_TOO_LONG", reply
    check_still_serves(client)


@pytest.mark.parametrize("what", BODIES)
def test_a_body_that_is_no_request_gets_one_error(suite, proto, what):
    with Dealer(suite.endpoint, proto) as client:
        # A REQ envelope around it, so that even an empty body has its place.
        client.send_frames(b"", BODIES[what])
        reply = client.receive(5)
        check(reply)
        assert reply.content["message"]
        check_still_serves(client)


def test_a_truncated_protobuf_request_gets_one_error(suite, proto):
    with Dealer(suite.endpoint, proto) as client:
        whole = proto.to_bytes({"id": fresh_id(), "generate": {"tokens": [1, 2, 3], "text": ""}})
        for cut in (len(whole) - 1, len(whole) - 3):
            client.send_frames(whole[:cut])
            check(client.receive(5))
            check_still_serves(client)


def test_a_bad_protobuf_request_gets_a_protobuf_error_naming_the_field(suite, proto):
    with Dealer(suite.endpoint, proto) as client:
        id = client.send({"score": {"tokens": [9999]}}, binary=True)
        reply = client.receive(5)
        assert reply.id == id
        check(reply, ["tokens"])


def test_extra_frames_get_one_error(client):
    client.send_frames(json.dumps({"id": fresh_id(), "score": GOOD}).encode(), b"surprise", b"again")
    check(client.receive(5))
    check_still_serves(client)


def test_an_id_of_more_than_64_bytes_gets_one_error(client):
    client.send_frames(json.dumps({"id": "x" * 65, "score": GOOD}).encode())
    check(client.receive(5), ["id"])
    check_still_serves(client)


def test_an_id_of_64_bytes_is_served(client):
    assert client.end({"score": GOOD}, id=fresh_id().ljust(64, "x")).kind == "scored"


def test_an_early_rule_on_an_online_checkpoint_gets_one_error(binary, models, tmp_path):
    from suite import Suite
    with Suite(models("online").path, tmp_path) as suite, Dealer(suite.endpoint) as client:
        for policy in ("argmax", "mean"):
            check(client.one({"generate": GOOD | {"depth": {"policy": policy}}}), ["policy"])
        check_still_serves(client)


def test_bad_requests_do_not_disturb_a_stream_beside_them(suite, model):
    prompt, expected = model.generated("beside", 7, 40)
    with Dealer(suite.endpoint) as good, Dealer(suite.endpoint) as bad:
        id = good.send({"generate": {"tokens": prompt, "max_new_tokens": 40}})
        for _ in range(50):
            bad.send({"generate": {"tokens": [-1]}})
        assert good.collect([id])[id][-1].content["tokens"] == expected.tokens
        for _ in range(50):
            check(bad.receive(5), ["tokens"])
