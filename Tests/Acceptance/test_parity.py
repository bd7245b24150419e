"""What the product computes on checkpoints it has never seen equals the reference."""

import numpy as np
import pytest

from checkpoints import KINDS
from suite import Dealer, Suite

LOGPROB_TOLERANCE = 2e-3
EXIT_TOLERANCE = 1e-4

COMMON = {
    "default": None,
    "model": {"policy": "model"},
    "fixed 1": {"policy": "fixed", "value": 1},
    "fixed 3": {"policy": "fixed", "value": 3},
    "fixed K": {"policy": "fixed", "value": "K"},
    "per token": {"policy": "per_token", "values": "each"},
    "cdf 0.3": {"policy": "cdf", "threshold": 0.3},
    "cdf 0.7": {"policy": "cdf", "threshold": 0.7},
    "cdf 0.95": {"policy": "cdf", "threshold": 0.95},
    "cdf at least 3": {"policy": "cdf", "threshold": 0.3, "min": 3},
    "model at most 2": {"policy": "model", "max": 2},
    "model within 2 to 3": {"policy": "model", "min": 2, "max": 3},
}
EARLY = {
    "argmax": {"policy": "argmax"},
    "argmax within 2 to 3": {"policy": "argmax", "min": 2, "max": 3},
    "mean": {"policy": "mean"},
    "mean at most 3": {"policy": "mean", "max": 3},
}


def policies(model):
    return COMMON | (EARLY if model.config["decider"] == "early" else {})


def concrete(depth, model, n):
    """K and per-token lists of this model and length."""
    if not depth:
        return None
    depth = dict(depth)
    if depth.get("value") == "K":
        depth["value"] = model.K
    if depth.get("values") == "each":
        depth["values"] = [1 + (5 * i + i // 3) % model.K for i in range(n)]
    return depth


@pytest.fixture(scope="module", params=list(KINDS))
def served(request, binary, models, tmp_path_factory):
    model = models(request.param)
    with Suite(model.path, tmp_path_factory.mktemp("parity")) as suite, Dealer(suite.endpoint) as client:
        yield model, client


def check_score(model, client, tokens, expected, depth):
    request = {"include": {"exit_distributions": True}} | ({"depth": depth} if depth else {})
    scored = client.score(tokens, **request)
    assert scored["depths"] == expected.depths
    assert len(scored["logprobs"]) == len(tokens) - 1
    assert np.abs(np.array(scored["logprobs"]) - expected.logprobs(tokens)).max(initial=0) < LOGPROB_TOLERANCE
    assert [len(p) for p in scored.get("exit_distributions", [[]] * len(tokens))] == [len(p) for p in expected.exits]
    for mine, theirs in zip(scored.get("exit_distributions", []), expected.exits):
        assert np.allclose(mine, theirs, rtol=0, atol=EXIT_TOLERANCE)


def test_scores_equal_the_reference_under_every_depth_policy(served):
    model, client = served
    for name, depth in policies(model).items():
        depth = concrete(depth, model, 40)
        tokens, expected = model.scored(name, 40, depth)
        check_score(model, client, tokens, expected, depth)


@pytest.mark.parametrize("n", (1, 2, 17, 64, 150, 192))
def test_scores_equal_the_reference_at_every_length(served, n):
    model, client = served
    tokens, expected = model.scored("length", n)
    check_score(model, client, tokens, expected, None)


def test_logits_come_as_one_raw_frame_when_asked_for(served):
    model, client = served
    tokens, expected = model.scored("logits", 23)
    reply = client.end({"score": {"tokens": tokens, "include": {"logits": True}}})
    reference = reply.content["logits"]
    assert reference["shape"] == [23, model.vocabulary]
    assert reference["dtype"].lower() in ("f32", "float32")
    assert len(reply.frames) == 1
    logits = np.frombuffer(reply.frames[0], "<f4").reshape(reference["shape"])
    assert np.abs(logits - expected.logits).max() < 1e-3


def test_greedy_tokens_and_depths_equal_the_reference_under_every_depth_policy(served):
    model, client = served
    for name, depth in policies(model).items():
        new = 1 if name == "per token" else 12
        depth = concrete(depth, model, 9)
        for attempt in range(100):
            prompt = model.tokens(f"{name}+{attempt}", 9)
            expected = model.reference.generate(prompt, new, depth)
            if expected.margin > 2e-4:
                break
        done = client.generate(prompt, new, **({"depth": depth} if depth else {}))
        assert done["tokens"] == expected.tokens, name
        assert done["depths"] == expected.depths, name
        assert done["prompt_depths"] == expected.prompt_depths, name


def test_long_greedy_continuations_equal_the_reference(served):
    model, client = served
    for n, new in ((1, 40), (33, 40), (100, 30)):
        prompt, expected = model.generated("long", n, new)
        done = client.generate(prompt, new, include={"logprobs": True, "exit_distributions": True})
        assert done["tokens"] == expected.tokens
        assert done["depths"] == expected.depths
        assert done["prompt_depths"] == expected.prompt_depths
        assert np.allclose(done["logprobs"], expected.logprobs, rtol=0, atol=LOGPROB_TOLERANCE)
        for mine, theirs in zip(done["exit_distributions"], expected.exits, strict=True):
            assert len(mine) == len(theirs)
            assert np.allclose(mine, theirs, rtol=0, atol=EXIT_TOLERANCE)


def test_usage_counts_tokens_and_core_iterations(served):
    model, client = served
    prompt, expected = model.generated("usage", 12, 8)
    usage = client.generate(prompt, 8)["usage"]
    iterations = sum(expected.prompt_depths) + sum(expected.depths[1:])
    assert (usage["prompt_tokens"], usage["new_tokens"]) == (12, 8)
    assert usage["core_iterations"] == iterations
    assert usage["mean_depth"] == pytest.approx(iterations / 19, rel=1e-5)
