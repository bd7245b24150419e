"""compose/compose.yaml: valid, and its commands really make a suite.

No container engine is needed: the same commands run as processes, with host names, ports and folders replaced. What
is not tried: the image, the volumes' owners, the PID namespace.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from suite import BINARY, ROOT, Dealer, ask, fresh_id, free_port, wait_for

compose_spec = pytest.importorskip("compose_spec", reason="PyPI compose-spec is not installed")
FILE = ROOT / "compose/compose.yaml"


def validate(folder):
    return subprocess.run(["sh", folder / "validate.sh", sys.executable], capture_output=True, text=True, timeout=30)


def test_the_files_are_valid():
    done = validate(ROOT / "compose")
    assert done.returncode == 0, done.stderr
    assert "valid" in done.stdout


@pytest.mark.parametrize("name, right, wrong, place", (
    ("compose.yaml", "command:", "comand:", "comand"),
    ("common.yaml", "restart:", "restrat:", "restrat"),
    ("compose.yaml", "interval:", "intervall:", "intervall"),
    ("compose.yaml", "- core:/data", "- kore:/data", "kore"),
    ("compose.yaml", 'pid: "service:core"', "", "tools")))
def test_a_mistake_is_found_and_named(tmp_path, name, right, wrong, place):
    folder = tmp_path / "compose"
    folder.mkdir()
    for file in (ROOT / "compose").iterdir():
        (folder / file.name).write_text(file.read_text())
    text = (folder / name).read_text()
    assert right in text
    (folder / name).write_text(text.replace(right, wrong, 1))
    done = validate(folder)
    assert done.returncode == 1 and place in done.stderr, done


@pytest.fixture
def containers(binary, shipped, tmp_path):
    """The four services as the file starts them; (processes, address of clients, what replaces what)."""
    services = compose_spec.PyCompose.from_yaml(FILE.read_text()).to_dict()["services"]
    clients, workers = free_port(), free_port()
    inboxes = {stage: free_port() for stage in ("decider", "core", "coda")}
    processes = {}

    def here(word, name):
        word = re.sub(r"tcp://[\w.]+:5555", f"tcp://127.0.0.1:{clients}", word)
        word = re.sub(r"tcp://[\w.]+:5556", f"tcp://127.0.0.1:{workers}", word)
        word = re.sub(r"tcp://[\w.]+:5557", f"tcp://127.0.0.1:{inboxes.get(name)}", word)
        return word.replace("/model", str(shipped("mano-online"))).replace("/data", str(tmp_path / name))

    def start(name):
        log = open(tmp_path / f"{name}.log", "ab")
        processes[name] = subprocess.Popen([BINARY, *(here(w, name) for w in services[name]["command"])],
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=tmp_path)
        log.close()

    def healthy(name):
        test = services[name]["healthcheck"]["test"]
        line = shlex.join(test[1:]) if isinstance(test, list) else test
        line = here(line, name).replace("anira ", f"{BINARY} ", 1)
        return subprocess.run(["sh", "-c", line], capture_output=True, timeout=20).returncode == 0

    # As compose starts them: the router depends on the workers, so it comes last.
    for name in ("decider", "core", "coda", "router"):
        start(name)
    yield processes, f"tcp://127.0.0.1:{clients}", start, healthy
    for process in processes.values():
        process.kill()
        process.wait(10)


def test_the_services_of_the_file_make_a_suite(containers):
    processes, endpoint, start, healthy = containers
    wait_for(lambda: all(healthy(name) for name in processes), 30, "all healthchecks")
    prompt = {"text": "<bos> + 3 * 2 4 <ans>", "max_new_tokens": 1}
    assert ask(endpoint, {"id": fresh_id(), "generate": prompt}).content["text"].strip() == "4"

    # A container that is replaced is taken back.
    os.kill(processes["core"].pid, signal.SIGKILL)
    processes["core"].wait(10)
    wait_for(lambda: not healthy("core"), 15, "the core's healthcheck to fail")
    start("core")
    with Dealer(endpoint) as client:
        assert client.end({"generate": prompt}).content["text"].strip() == "4"
    wait_for(lambda: healthy("core"), 15, "the core's healthcheck to succeed")

    # As compose stops them: the router first.
    begin = time.monotonic()
    for name in ("router", "decider", "core", "coda"):
        processes[name].terminate()
        assert processes[name].wait(30) == 0, name
    assert time.monotonic() - begin < 30
