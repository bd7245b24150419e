"""Checkpoints, references and running suites that the tests share."""

import functools
import random
import shutil

import pytest

import checkpoints
from reference import Reference
from suite import BINARY, SHIPPED, Dealer, Proto, Suite

# Prompts are chosen so that no exit decision and no choice of a greedy token hangs on the last bits: depths and
# tokens can then be compared exactly although two float32 implementations round differently.
DECISION_MARGIN = 2e-5
GREEDY_MARGIN = 2e-4


class Model:
    """A checkpoint folder with its reference."""

    def __init__(self, path):
        self.path = path
        self.reference = Reference(path)
        self.config = self.reference.config
        self.K, self.vocabulary = self.config["max_depth"], self.config["vocab_size"]
        self.generated = functools.lru_cache(None)(self._generated)

    def tokens(self, seed, n):
        return random.Random(f"{seed}/{n}").choices(range(1, self.vocabulary), k=n)

    def scored(self, seed, n, depth=None):
        """(tokens, reference) of a prompt whose depths are clear."""
        for attempt in range(200):
            tokens = self.tokens(f"{seed}+{attempt}", n)
            found = self.reference.infer(tokens, depth)
            if found.margin > DECISION_MARGIN:
                return tokens, found
        raise AssertionError("no clear prompt")

    def _generated(self, seed, n, new, depth=None):
        depth = dict(depth) if depth else None
        for attempt in range(200):
            tokens = self.tokens(f"{seed}+{attempt}", n)
            found = self.reference.generate(tokens, new, depth)
            if found.margin > GREEDY_MARGIN:
                return tokens, found
        raise AssertionError("no clear prompt")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Kind → Model, written on first use."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return functools.lru_cache(None)(lambda kind: Model(checkpoints.write_kind(folder / kind, kind)))


@pytest.fixture(scope="session")
def binary():
    if not BINARY.exists():
        pytest.fail(f"no binary at {BINARY}: build it (swift build -c release) or set ANIRA_BIN", pytrace=False)


@pytest.fixture(scope="session")
def model(models):
    """The early checkpoint, which most tests serve."""
    return models("early")


@pytest.fixture(scope="session")
def suite(binary, model, tmp_path_factory):
    """One running suite with two cores on the early checkpoint."""
    with Suite(model.path, tmp_path_factory.mktemp("suite"), cores=2) as suite:
        yield suite


@pytest.fixture
def client(suite):
    with Dealer(suite.endpoint) as client:
        yield client


@pytest.fixture(scope="session")
def proto(tmp_path_factory):
    if not Proto.FILE.exists():
        pytest.skip(f"{Proto.FILE} is not there: protobuf clients cannot be tried")
    if not shutil.which("protoc"):
        pytest.skip("protoc is not installed: protobuf clients cannot be tried")
    return Proto(tmp_path_factory.mktemp("proto"))


@pytest.fixture(scope="session")
def shipped():
    """Folder of a shipped checkpoint by name."""
    def folder(name):
        if not (SHIPPED / name).exists():
            pytest.fail(f"no {SHIPPED / name}: it belongs in the repository", pytrace=False)
        return SHIPPED / name
    return folder


@pytest.fixture
def lmdb_tools():
    missing = [tool for tool in ("mdb_stat", "mdb_dump", "mdb_copy") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (Debian: lmdb-utils)")
