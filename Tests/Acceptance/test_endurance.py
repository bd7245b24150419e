"""Many requests leave memory, open files and reader slots where they were."""

import re
import subprocess

from suite import Dealer, Suite, open_files, status_kib

WARM_UP, REQUESTS = 150, 300
GROWTH_KIB = 12 * 1024          # a process; the stores' own mapped pages are not counted
RSS_GROWTH_KIB = 48 * 1024      # a process, mapped pages included


def one_round(client, model, i):
    tokens = model.tokens(f"round {i}", 4 + i % 23)
    if i % 3 == 0:
        client.score(tokens, include={"exit_distributions": True})
    elif i % 3 == 1:
        client.generate(tokens, 6)
    else:
        client.generate(tokens, 3, session=f"endurance-{i % 5}")
        if i % 15 == 14:
            for s in range(5):
                client.one({"drop_session": {"session": f"endurance-{s}"}})
    if i % 10 == 0:
        assert client.one({"score": {"tokens": [-1]}}).kind == "error"


def readers(suite):
    """Reader slots in use, over all stores."""
    slots = 0
    for stage in ("prelude", "core", "coda"):
        for store in suite.store(stage):
            out = subprocess.run(["mdb_stat", "-e", store], capture_output=True, text=True, timeout=10, check=True)
            slots += int(re.search(r"Number of readers used:\s*(\d+)", out.stdout).group(1))
    return slots


def sample(suite):
    return {pid: (status_kib(pid, "RssAnon"), status_kib(pid, "VmRSS"), open_files(pid)) for pid in suite.pids()}


def test_300_requests_leave_memory_files_and_reader_slots_flat(binary, model, tmp_path, lmdb_tools):
    with Suite(model.path, tmp_path, cores=2) as suite:
        for i in range(WARM_UP):
            with_client(suite, model, i)
        before, slots = sample(suite), readers(suite)
        for i in range(REQUESTS):
            with_client(suite, model, i)
        after = sample(suite)
        assert after.keys() == before.keys(), "a process was replaced"
        for pid, (own, resident, files) in before.items():
            print(f"pid {pid}: own memory {own} -> {after[pid][0]} KiB, resident {resident} -> {after[pid][1]} KiB, "
                  f"files {files} -> {after[pid][2]}")
            assert after[pid][0] - own < GROWTH_KIB
            assert after[pid][1] - resident < RSS_GROWTH_KIB
            assert abs(after[pid][2] - files) <= 2
        assert readers(suite) <= slots + 1
        with Dealer(suite.endpoint) as client:
            status = client.one({"status": {}}).content
            assert status.get("running", 0) == 0 and status.get("waiting", 0) == 0


def with_client(suite, model, i):
    """A connection a request: what a client leaves behind would show too."""
    with Dealer(suite.endpoint) as client:
        one_round(client, model, i)
