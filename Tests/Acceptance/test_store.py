"""The store: what the tools and stock lmdb-utils show, and that it outlives the processes."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess

import pytest

from suite import Dealer, Refused, Suite, alive, fresh_id, run, wait_for

pytestmark = pytest.mark.usefixtures("binary")
NAME = "a-session"


def tool(*words):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done
    return done.stdout


def entries(path, database):
    return int(re.search(r"Entries:\s*(\d+)", tool("mdb_stat", "-s", database, path)).group(1))


def dump(path, database="kv"):
    """(key, value) pairs of a hex dump."""
    lines = [line.strip() for line in tool("mdb_dump", "-s", database, path).splitlines() if line.startswith(" ")]
    return list(zip(lines[::2], lines[1::2]))


def parts(key):
    """session u64, position u32, deepest entry u8, all big-endian."""
    raw = bytes.fromhex(key)
    assert len(raw) == 13, f"key {key} is not 13 bytes"
    return int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:12], "big"), raw[12]


@contextlib.contextmanager
def mounted(folder, size="1m"):
    """A small file system of its own at `folder`."""
    tool("mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder)
    try:
        yield
    finally:
        tool("umount", "-l", folder)


@pytest.fixture(scope="module", params=("early", "latest"))
def lived(request, binary, models, tmp_path_factory):
    """A suite with one named session of which everything is known: its tokens and the depth of each position."""
    model = models(request.param)
    with Suite(model.path, tmp_path_factory.mktemp("store")) as suite, Dealer(suite.endpoint) as client:
        prompt, expected = model.generated("stored", 40, 12)
        done = client.generate(prompt, 12, session=NAME)
        assert done["tokens"] == expected.tokens
        yield suite, model, done["prompt_depths"] + done["depths"][1:]


def test_stock_tools_read_the_live_store(lived, lmdb_tools):
    suite, _, depths = lived
    for stage in ("prelude", "core", "coda"):
        (store,) = suite.store(stage)
        assert "Entries" in tool("mdb_stat", "-e", "-f", "-r", "-a", store)
        assert {"meta", "sessions", "kv"} <= set(tool("mdb_dump", "-l", store).split())
        assert entries(store, "kv") == len(depths)
        assert entries(store, "sessions") == 1


def test_the_dump_shows_session_position_and_deepest_entry(lived, lmdb_tools):
    suite, model, depths = lived
    (store,) = suite.store("core")
    keys = [parts(key) for key, _ in dump(store)]
    assert keys == sorted(keys)
    assert len({session for session, *_ in keys}) == 1
    assert [position for _, position, _ in keys] == list(range(len(depths)))
    if model.reference.exit_kv == "project":
        deepest = [min(depth, model.K - 1) for depth in depths]
    else:
        deepest = [depth - 1 for depth in depths]
    assert [entry for *_, entry in keys] == deepest


def test_records_hold_one_key_and_value_row_an_entry(lived, lmdb_tools):
    """Sizes grow with depth by exactly one entry: memory is proportional to depth."""
    suite, model, _ = lived
    c = model.config
    width = 2 * 4 * c["num_core_layers"] * c["num_key_value_heads"] * (c["hidden_size"] // c["num_attention_heads"])
    (store,) = suite.store("core")
    sizes = {parts(key)[2]: len(value) // 2 for key, value in dump(store)}
    assert len(sizes) > 1
    headers = {size - (deepest + 1) * width for deepest, size in sizes.items()}
    assert len(headers) == 1 and 0 < headers.pop() <= 128


def test_a_compacted_copy_of_the_live_store_is_whole(lived, tmp_path, lmdb_tools):
    suite, _, depths = lived
    for stage in ("prelude", "core", "coda"):
        (store,) = suite.store(stage)
        copy = tmp_path / stage
        copy.mkdir()
        tool("mdb_copy", "-c", store, copy)
        assert entries(copy, "kv") == len(depths)
        assert dump(copy) == dump(store)


def test_no_reader_slot_stays_in_use_by_a_dead_process(lived, lmdb_tools):
    suite, *_ = lived
    for stage in ("prelude", "core", "coda"):
        (store,) = suite.store(stage)
        # mdb_stat 0.9.24 exits 1 after "-r" when no reader is active, so only what it prints counts.
        listed = subprocess.run(["mdb_stat", "-e", "-r", store], capture_output=True, text=True, timeout=20).stdout
        assert "Reader Table Status" in listed
        rows = re.findall(r"^\s*(\d+)\s+[0-9a-f]+\s+", listed, re.M)
        assert all(alive(int(pid)) for pid in rows)


@pytest.mark.parametrize("command", ("stat", "sessions", "verify"))
def test_anira_kv_reads_the_live_store(lived, command):
    suite, *_ = lived
    done = run("kv", command, "--data", suite.data, "--json")
    assert done.returncode == 0, done
    assert isinstance(json.loads(done.stdout), (dict, list))
    assert run("kv", command, "--data", suite.data).stdout.strip()


def test_anira_kv_sessions_names_the_session_with_its_length(lived):
    suite, _, depths = lived
    done = run("kv", "sessions", "--data", suite.data, "--json")
    assert NAME in done.stdout
    assert re.search(rf"\b({len(depths)}|{len(depths) + 1})\b", done.stdout)


def test_anira_kv_show_shows_the_session(lived):
    suite, _, depths = lived
    done = run("kv", "show", NAME, "--data", suite.data, "--json")
    assert done.returncode == 0, done
    assert json.loads(done.stdout)
    assert run("kv", "show", "nobody", "--data", suite.data).returncode == 1


def test_anira_kv_of_a_folder_without_a_store_fails_and_makes_none(tmp_path):
    done = run("kv", "stat", "--data", tmp_path / "nothing")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.mdb"))


# --- it outlives the processes ---------------------------------------------------------------------------------

def end_politely(suite):
    assert suite.stop() == 0


def end_by_kill_9(suite):
    """Everything at once, the supervisor first so that it restarts nothing."""
    for pid in suite.pids():
        os.kill(pid, signal.SIGKILL)
    suite.kill()
    wait_for(lambda: not any(alive(pid) for pid in suite.seen), 10, "the processes to be gone")


@pytest.mark.parametrize("end", (end_politely, end_by_kill_9))
def test_a_session_and_an_answer_outlive_a_restart(models, tmp_path, end):
    model, data = models("early"), tmp_path / "data"
    prompt, id = model.tokens("restart", 25), fresh_id()
    sampled = {"generate": {"tokens": prompt, "max_new_tokens": 12, "sampling": {"temperature": 1.5}}}
    first = Suite(model.path, tmp_path / "a", data=data).start()
    with Dealer(first.endpoint) as client:
        begun = client.generate(prompt, 8, session=NAME)
        answer = client.end(sampled, id=id).content
        end(first)
    with Suite(model.path, tmp_path / "b", data=data) as second, Dealer(second.endpoint) as client:
        turn = client.generate([7, 8], 8, session=NAME)
        assert turn["usage"]["core_iterations"] < 12 * model.K, "the history was computed again"
        fresh = client.generate(prompt + begun["tokens"] + [7, 8], 8)
        assert (turn["tokens"], turn["depths"]) == (fresh["tokens"], fresh["depths"])
        assert client.end(sampled, id=id).content["tokens"] == answer["tokens"], "the same id ran twice"
        assert run("kv", "verify", "--data", data).returncode == 0


def test_a_flipped_byte_is_reported_and_never_served(models, tmp_path, lmdb_tools):
    model, data = models("early"), tmp_path / "data"
    prompt = model.tokens("flipped", 30)
    with Suite(model.path, tmp_path / "a", data=data) as suite, Dealer(suite.endpoint) as client:
        begun = client.generate(prompt, 4, session=NAME)
        (store,) = suite.store("core")
    values = [bytes.fromhex(value) for _, value in dump(store)]
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    path = copy / store.relative_to(data) / "data.mdb"
    raw = bytearray(path.read_bytes())
    place = raw.find(values[10])
    assert place > 0 and raw.count(values[10]) >= 1
    while place >= 0:       # every copy of the page, whichever is live
        raw[place + len(values[10]) - 9] ^= 0x10
        place = raw.find(values[10], place)
    path.write_bytes(raw)
    report = run("kv", "verify", "--data", copy)
    assert report.returncode == 1 and report.stderr.strip() + report.stdout.strip()
    with Suite(model.path, tmp_path / "b", data=copy) as suite, Dealer(suite.endpoint) as client:
        reply = client.end({"generate": {"tokens": [7], "max_new_tokens": 6, "session": NAME}})
        fresh = client.generate(prompt + begun["tokens"] + [7], 6)
        assert reply.kind == "error" or reply.content["tokens"] == fresh["tokens"]


def test_damage_anywhere_in_the_file_is_told_and_never_a_bare_signal(models, tmp_path):
    """LMDB follows what its pages say: damaged headers sent it to memory that is not there."""
    model, data = models("early"), tmp_path / "data"
    with Suite(model.path, tmp_path / "a", data=data) as suite, Dealer(suite.endpoint) as client:
        client.generate(model.tokens("damaged", 30), 16, session=NAME)
        (store,) = suite.store("core")
    file, page = store / "data.mdb", 4096
    whole, chance = file.read_bytes(), random.Random(5)
    told = 0
    for number in range(2, len(whole) // page):
        raw = bytearray(whole)
        for _ in range(3):      # of the header and the first pointers
            raw[number * page + chance.randrange(24)] ^= 1 << chance.randrange(8)
        file.write_bytes(raw)
        for command in ("verify", "sessions"):
            done = run("kv", command, "--data", data, "--stage", "core")
            assert done.returncode in (0, 1), (number, command, done)
            assert done.returncode == 0 or done.stderr.strip() or "problem" in done.stdout, (number, command, done)
            told += done.returncode
    assert told
    (data / "router/data.mdb").write_bytes(b"")
    with pytest.raises(Refused, match="data.mdb is damaged: restore a copy or move it away"):
        Suite(model.path, tmp_path / "b", data=data).start()
    file.unlink()
    done = run("kv", "verify", "--data", data)
    assert done.returncode == 1 and "no data.mdb" in done.stderr


def test_a_damaged_file_of_a_stage_is_set_aside_and_the_session_goes_on(models, tmp_path):
    """Stages hold only what can be computed again: whatever happens to their files, the answer is the same."""
    model, data, chance = models("early"), tmp_path / "data", random.Random(7)
    with Suite(model.path, tmp_path / "a", data=data) as suite, Dealer(suite.endpoint) as client:
        prompt = model.tokens("damaged", 30)
        begun = client.generate(prompt, 16, session=NAME)["tokens"]
        expected = client.generate(prompt + begun + [7], 6)["tokens"]

    def no_store(raw):
        return b"no store at all" * 1000

    def cut(raw):
        return raw[:len(raw) // 2]

    def headers(raw):
        return b"".join(flipped(raw[page:page + 4096], 24) for page in range(0, len(raw), 4096))

    def flipped(page, limit):
        page = bytearray(page)
        for _ in range(3):
            page[chance.randrange(limit)] ^= 1 << chance.randrange(8)
        return bytes(page)

    for number, (stage, damage) in enumerate((("core", no_store), ("prelude", cut), ("core", headers), ("coda", headers))):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(data, copy)
        (file,) = (copy / "kv" / stage).glob("*/data.mdb")
        file.write_bytes(damage(file.read_bytes()))
        aside = file.with_name("data.mdb.damaged")
        content = file.read_bytes()
        with Suite(model.path, tmp_path / f"b-{number}", data=copy) as suite, Dealer(suite.endpoint) as client:
            assert client.generate([7], 6, session=NAME)["tokens"] == expected, (stage, damage)
            told = suite.log_path.read_text()
        assert f"data.mdb is damaged and is {aside} now" in told and aside.read_bytes() == content
        assert run("kv", "verify", "--data", copy).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_an_answer_that_cannot_be_written_is_no_success(binary, model, tmp_path):
    """With the Router's disk full; once there is room the session's turn is there after kill -9."""
    disk = tmp_path / "data" / "router"
    disk.mkdir(parents=True)
    prompt, expected = model.generated("unwritten", 12, 8)
    with mounted(disk), Suite(model.path, tmp_path) as suite, Dealer(suite.endpoint) as client:
        client.generate(prompt[:6], 2, session="before")
        with open(disk / "ballast", "wb", buffering=0) as ballast:
            with pytest.raises(OSError):
                while True:
                    ballast.write(bytes(4096))
        request = {"generate": {"tokens": prompt, "max_new_tokens": 8, "session": NAME}}
        failed = client.end(request, id="unwritten")
        assert failed.kind == "error" and failed.content["code"] == "STORE_FULL", failed
        assert "'unwritten'" in failed.content["message"]
        dropped = client.end({"drop_session": {"session": "before"}})
        assert dropped.kind == "error" and dropped.content["code"] == "STORE_FULL", dropped
        (disk / "ballast").unlink()
        assert client.end({"result": {"id": "unwritten"}}).content["tokens"] == expected.tokens
        (router,) = suite.workers()["router"]
        wait_for(lambda: any(bytes.fromhex(key) == NAME.encode() for key, _ in dump(disk, "sessions")), 20,
                 "the session in the ledger")
        os.kill(router, signal.SIGKILL)
        wait_for(lambda: suite.workers()["router"] not in ([router], []), 20, "a new Router")
        gone = client.end({"drop_session": {"session": "before"}})
        assert gone.kind == "error" and gone.content["code"] == "NOT_FOUND", "the dropped session came back"
        again = client.end(request, id="unwritten")
        assert again.kind == "completed" and again.content["tokens"] == expected.tokens
        client.one({"drop_session": {"session": NAME}})
