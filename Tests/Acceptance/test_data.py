"""`anira data` writes rows that independent checkers agree with, from seeds nobody has seen before."""

import collections
import json
import math
import random
import subprocess

import pytest

from suite import BINARY, run
from task_checks import check

pytestmark = pytest.mark.usefixtures("binary")
TASKS = ("mano", "brevo", "depo", "lano")
SPLITS = ("train", "validation", "test")
COUNTS = {"mano": 1500, "brevo": 500, "depo": 500, "lano": 40}


def lines(task, *options, **named):
    words = [word for name, value in named.items() for word in (f"--{name.replace('_', '-')}", value)]
    done = run("data", "--task", task, *words, *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def rows(task, *options, **named):
    return [json.loads(line) for line in lines(task, *options, **named)]


@pytest.fixture(scope="module")
def seed():
    """Another one in every run; whatever fails on it fails on all."""
    seed = random.SystemRandom().randrange(1 << 63)
    print(f"seed {seed}")
    return seed


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TASKS)
def test_every_row_passes_its_checker(task, split, seed):
    made = rows(task, split=split, seed=seed, count=COUNTS[task])
    assert len(made) == COUNTS[task]
    for row in made:
        assert row["task"] == task
        check(row)


@pytest.mark.parametrize("task, size", [("mano", 1), ("mano", 24), ("brevo", 3), ("brevo", 30), ("depo", 3),
                                        ("depo", 75)])
def test_rows_have_the_size_they_are_asked_for(task, size, seed):
    for row in rows(task, split="test", seed=seed, count=100, size=size):
        assert row["size"] == size
        check(row)


@pytest.mark.parametrize("task, options", [
    ("mano", {"modulus": 7, "max_size": 5}), ("mano", {"modulus": 97}), ("brevo", {"nodes": 100, "size": 100}),
    ("depo", {"nodes": 100, "hops": 16, "queries": 3})])
def test_options_change_the_task(task, options, seed):
    made = rows(task, split="train", seed=seed, count=200, **options)
    for row in made:
        check(row)
    if task == "mano":
        assert {row["meta"]["modulus"] for row in made} == {options["modulus"]}
        assert {row["size"] for row in made} <= set(range(1, options.get("max_size", 16) + 1))
    if task == "depo":
        queries = [query for row in made for query in row["meta"]["queries"]]
        assert {query["k"] for query in queries} == set(range(1, 17))
        assert all(len(row["meta"]["queries"]) == 3 for row in made)


@pytest.mark.parametrize("task", TASKS)
def test_a_row_is_made_again_alone(task, seed):
    options = {"split": "train", "seed": seed}
    whole = lines(task, count=20, **options)
    assert lines(task, count=20, **options) == whole
    assert lines(task, count=1, start=13, **options) == whole[13:14]
    assert lines(task, count=5, start=15, **options) == whole[15:]
    assert lines(task, count=0, **options) == []
    if task != "lano":
        size = json.loads(whole[7])["size"]
        assert lines(task, count=1, start=7, size=size, **options) == whole[7:8]


@pytest.mark.parametrize("task", TASKS)
def test_seeds_and_splits_give_other_rows(task, seed):
    texts = [tuple(lines(task, count=5, seed=s, split=split)) for s in (seed, seed ^ 1) for split in SPLITS]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("task, options", [
    ("mano", {"size": 1}), ("mano", {"size": 2, "modulus": 5}), ("brevo", {"size": 3, "nodes": 6}),
    ("depo", {"size": 3, "nodes": 6}), ("lano", {})])
def test_splits_share_no_question(task, options, seed):
    count = 30 if task == "lano" else 1000
    questions = {split: {check(row) for row in rows(task, split=split, seed=seed, count=count, **options)}
                 for split in SPLITS}
    for first, second in (SPLITS[:2], SPLITS[1:], SPLITS[::2]):
        assert questions[first] and not questions[first] & questions[second]


@pytest.mark.parametrize("task", TASKS)
def test_a_word_has_one_token_id(task, seed):
    ids = {}
    for row in rows(task, seed=seed, count=100):
        for word, token in zip(row["text"].split(), row["tokens"]):
            assert ids.setdefault(word, token) == token
    assert len(set(ids.values())) == len(ids)
    assert ids["<bos>"] == 1 and ids["<eos>"] == 2 and 0 not in ids.values()


# --- statistics, on seeds that stay: 3 standard errors are a lot, but not everything ------------------------------

@pytest.mark.parametrize("size, share", [(4, .067), (8, .070), (10, .069), (16, .073)])
def test_zero_is_as_common_a_value_as_published(size, share):
    found = [row["meta"]["value"] == 0 for row in rows("mano", seed=3, count=6000, size=size)]
    assert abs(sum(found) / 6000 - share) < 3 * math.sqrt(share * (1 - share) / 6000) + .0025


@pytest.mark.parametrize("size, edges, answer, tokens", [(5, 6.5, 3.2, 21), (15, 30, 8.9, 74), (30, 63, 15.2, 146)])
def test_graphs_are_as_dense_as_published(size, edges, answer, tokens):
    made = rows("brevo", seed=3, count=1500, size=size)
    near([len(row["meta"]["edges"]) for row in made], edges, .5 if size > 10 else .05)
    near([len(row["meta"]["answer"]) for row in made], answer, .05)
    near([len(row["tokens"]) for row in made], tokens, .5)


def near(values, published, rounding):
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    # The published mean is of 1,500 draws too.
    assert abs(mean - published) <= 3 * deviation * math.sqrt(1 / len(values) + 1 / 1500) + rounding


def test_training_graphs_have_sizes_of_the_skewed_law():
    sizes = collections.Counter(row["size"] for row in rows("brevo", seed=3, count=5000))
    weights = {n: 1 / (n + math.sqrt(30)) for n in range(3, 31)}
    chi = sum((sizes[n] - 5000 * w / sum(weights.values())) ** 2 / (5000 * w / sum(weights.values()))
              for n, w in weights.items())
    assert set(sizes) == set(weights) and chi < 27 + 4 * math.sqrt(2 * 27)


def test_hops_are_flat():
    hops = collections.Counter(query["k"] for row in rows("depo", seed=3, count=500, size=20)
                               for query in row["meta"]["queries"])
    assert set(hops) == set(range(1, 9))
    assert sum((found - 625) ** 2 / 625 for found in hops.values()) < 7 + 4 * math.sqrt(14)


def test_strings_are_as_long_as_the_grammar_makes_them():
    sizes = [row["size"] for row in rows("lano", seed=3, count=2000)]
    assert abs(sum(sizes) / 2000 - 275.625) < 3 * 41.71 / math.sqrt(2000)
    assert 138 <= min(sizes) and max(sizes) <= 432


# --- the command -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words, named", [
    ([], "--task"), (["--task", "chess"], "mano, brevo, depo, lano"), (["--task", "mano", "--split", "dev"], "split"),
    (["--task", "mano", "--size", "0"], "1…253"), (["--task", "brevo", "--size", "31"], "3…30"),
    (["--task", "depo", "--size", "2"], "3…75"), (["--task", "lano", "--size", "200"], "size"),
    (["--task", "lano", "--nodes", "5"], "nodes"), (["--task", "mano", "--modulus", "1"], "modulus"),
    (["--task", "brevo", "--nodes", "2"], "nodes"), (["--task", "mano", "--count", "-1"], "count"),
    (["--task", "mano", "--count=-1"], "count"), (["--task", "mano", "--seed=-1"], "seed"),
    (["--task", "mano", "--start", "18446744073709551615"], "start"), (["--task", "mano", "--seed", "x"], "seed")])
def test_wrong_usage_is_named_and_exits_64(words, named):
    done = run("data", *words)
    assert done.returncode == 64
    assert done.stdout == ""
    assert named in done.stderr


def test_a_split_without_instances_is_one_line_on_stderr():
    # Three nodes have two cycles; at least one of the three splits has none of them.
    ends = [run("data", "--task", "depo", "--nodes", 3, "--size", 3, "--split", split) for split in SPLITS]
    failed = [end for end in ends if end.returncode]
    assert failed
    for end in failed:
        assert end.returncode == 1 and end.stdout == ""
        assert len(end.stderr.splitlines()) == 1 and "size 3" in end.stderr


def test_a_closed_pipe_ends_it_quietly():
    with subprocess.Popen([BINARY, "data", "--task", "mano", "--count", "100000000"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        check(json.loads(process.stdout.readline()))
        process.stdout.close()
        assert process.wait(10) == 0
        assert process.stderr.read() == b""


def spoilt_mano(row):
    row["meta"]["value"] = (row["meta"]["value"] + 1) % 23


def spoilt_brevo(row):
    words = row["text"].split()
    words[-2], words[-3] = words[-3], words[-2]
    row["text"] = " ".join(words)
    row["meta"]["answer"][-2:] = row["meta"]["answer"][:-3:-1]


def spoilt_depo(row):
    row["meta"]["queries"][0]["answer"] = row["meta"]["queries"][0]["start"]


def spoilt_lano(row):
    row["text"] = row["text"].replace("1 3", "3 1", 1)


@pytest.mark.parametrize("spoil", [spoilt_mano, spoilt_brevo, spoilt_depo, spoilt_lano])
def test_the_checkers_notice_a_wrong_row(spoil):
    task = spoil.__name__.removeprefix("spoilt_")
    for row in rows(task, seed=3, count=10, **({} if task == "lano" else {"size": 12})):
        check(row)
        spoil(row)
        with pytest.raises(AssertionError):
            check(row)
