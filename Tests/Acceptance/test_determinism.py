"""The same request gives the same bits whatever runs beside it; a seed fixes a sampled answer."""

import pytest

from suite import Dealer

INCLUDE = {"logprobs": True, "exit_distributions": True}
ROUNDS = 2


def workload(model):
    """48 requests of three kinds over many lengths and policies."""
    policies = [None, {"policy": "fixed", "value": 4}, {"policy": "cdf", "threshold": 0.7}, {"policy": "mean"}]
    requests = []
    for i in range(48):
        tokens = model.tokens(f"mixed {i}", 1 + 3 * i % 71)
        depth = {"depth": policies[i % 4]} if policies[i % 4] else {}
        if i % 4 == 3 or i % 8 == 5:
            requests.append({"score": {"tokens": tokens + [1], "include": {"exit_distributions": True, "logits": True},
                                       **depth}})
        else:
            sampling = {"sampling": {"temperature": 0.9, "top_k": 20, "seed": i}} if i % 2 else {}
            requests.append({"generate": {"tokens": tokens, "max_new_tokens": 16, "include": INCLUDE,
                                          **depth, **sampling}})
    return requests


def answer(reply):
    """Everything but the clock, with the bytes of tensor frames."""
    return reply.kind, {k: v for k, v in reply.content.items() if k != "timing"}, reply.frames


def test_48_concurrent_requests_on_two_cores_equal_the_same_requests_alone(suite, model):
    requests = workload(model)
    with Dealer(suite.endpoint) as client:
        alone = [answer(client.end(request)) for request in requests]
    assert {kind for kind, *_ in alone} == {"completed", "scored"}
    clients = [Dealer(suite.endpoint) for _ in range(4)]
    for _ in range(ROUNDS):
        ids = [clients[i % 4].send(request) for i, request in enumerate(requests)]
        replies = {}
        for c in range(4):
            replies |= clients[c].collect(ids[c::4], 60)
        for i, id in enumerate(ids):
            assert answer(replies[id][-1]) == alone[i], f"request {i} differs when it is not alone"
    for client in clients:
        client.close()


def test_a_seed_reproduces_a_sampled_answer(client, model):
    request = {"temperature": 1.5, "seed": 1234}
    prompt = model.tokens("sampled", 9)
    first = client.generate(prompt, 24, sampling=request)
    assert client.generate(prompt, 24, sampling=request)["tokens"] == first["tokens"]


def test_different_seeds_give_different_answers(client, model):
    prompt = model.tokens("sampled", 9)
    answers = {tuple(client.generate(prompt, 24, sampling={"temperature": 1.5, "seed": s})["tokens"]) for s in range(6)}
    assert len(answers) >= 5


def test_without_a_seed_answers_differ(client, model):
    prompt = model.tokens("sampled", 9)
    assert len({tuple(client.generate(prompt, 24, sampling={"temperature": 1.5})["tokens"]) for _ in range(4)}) >= 3


@pytest.mark.parametrize("sampling", (
    {"temperature": 0}, {"temperature": 1.5, "top_k": 1, "seed": 3}, {"temperature": 1.5, "top_p": 1e-6, "seed": 3}))
def test_sampling_that_leaves_one_choice_is_greedy(client, model, sampling):
    prompt, expected = model.generated("greedy sampling", 9, 12)
    assert client.generate(prompt, 12, sampling=sampling)["tokens"] == expected.tokens


def test_top_k_keeps_to_the_k_best_tokens(client, model):
    """Every sampled token is among the reference's three best at its position."""
    prompt = model.tokens("top k", 9)
    tokens = client.generate(prompt, 16, sampling={"temperature": 3, "top_k": 3, "seed": 5})["tokens"]
    logits = model.reference.infer(prompt + tokens).logits
    for i, token in enumerate(tokens):
        row = logits[len(prompt) - 1 + i]
        assert (row > row[token] + 1e-3).sum() < 3
