"""The reference is right: it reproduces the golden cases, which another implementation computed."""

import json

import numpy as np
import pytest

from checkpoints import KINDS
from reference import Reference, read_safetensors, write_safetensors
from suite import GOLDEN

CASES = ("early-1x", "early-gqa", "online-1x", "online-2core")


def golden(case):
    folder = GOLDEN / case
    if not folder.exists():
        pytest.fail(f"no golden case at {folder}", pytrace=False)
    return Reference(folder), json.loads((folder / "expected.json").read_text())


def depth_of(case):
    if "depth" in case:
        return {"policy": "per_token", "values": case["depth"]}
    if "q" in case:
        return {"policy": case.get("rule", "cdf"), "threshold": case["q"]}
    return None


@pytest.mark.parametrize("case", CASES)
def test_logits_depths_and_exit_distributions_equal_the_golden_ones(case):
    model, expected = golden(case)
    for item in expected["infer"]:
        found = model.infer(item["tokens"], depth_of(item))
        assert found.depths == item["depths"]
        assert np.abs(found.logits - np.array(item["logits"])).max() < 1e-4
        for mine, theirs in zip(found.exits, item["exit_distribution"]):
            computed = [p for p in theirs if p is not None]
            assert len(mine) == len(computed)
            assert np.allclose(mine, computed, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_greedy_continuations_equal_the_golden_ones(case):
    model, expected = golden(case)
    for item in expected["greedy"]:
        found = model.generate(item["prompt"], len(item["new_tokens"]))
        assert found.tokens == item["new_tokens"]
        assert found.prompt_depths + found.depths[1:] == item["depths"][:len(item["prompt"]) + len(found.tokens) - 1]


@pytest.mark.parametrize("kind", KINDS)
def test_unseen_checkpoints_spend_different_depths_on_different_tokens(kind, models):
    depths = models(kind).reference.infer(models(kind).tokens("variety", 120)).depths
    assert len(set(depths)) >= 3


def test_a_prefix_gives_the_same_rows_as_the_whole(models):
    model = models("early")
    tokens, whole = model.scored("prefix", 30)
    part = model.reference.infer(tokens[:17])
    assert part.depths == whole.depths[:17]
    assert np.abs(part.logits - whole.logits[:17]).max() < 1e-5


@pytest.mark.parametrize("dtype, error", [("F32", 0), ("F16", 2 ** -11), ("BF16", 2 ** -8)])
def test_safetensors_round_trips_within_the_precision_of_its_type(tmp_path, dtype, error):
    values = np.random.default_rng(0).normal(0, 1, (7, 5)).astype(np.float32)
    write_safetensors(tmp_path / "x", {"a": values}, dtype)
    read = read_safetensors(tmp_path / "x")["a"]
    assert (np.abs(read - values) <= error * np.abs(values)).all()
