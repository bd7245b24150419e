"""Sessions that go from worker to worker: what an earlier one left is never taken for the session's history."""

import signal
import subprocess
import time

import pytest

from suite import BINARY, ROOT, Dealer, free_port, wait_for

MODEL = ROOT / "checkpoints/mano-online"
FIRST, LOST, SECOND, THIRD = [1, 4, 10, 6, 9, 11, 12], [5, 6, 7, 8, 9, 10, 11, 12, 13, 5], [4, 6, 13, 12, 4, 7, 8, 10], [6, 9]
PARTS = ("router", "decider-0", "core-0", "coda-0")


class Parts:
    """A suite whose services are started and stopped one by one."""

    def __init__(self, folder):
        self.folder, self.endpoint = folder, f"tcp://127.0.0.1:{free_port()}"
        self.processes = {}

    def start(self, *names):
        workers = f"ipc://{self.folder}/workers.ipc"
        for name in names:
            kind = name.partition("-")[0]
            where = ["--endpoint", self.endpoint, "--workers", workers] if kind == "router" \
                else ["--connect", workers, "--name", name]
            with open(self.folder / f"{name}.log", "ab") as log:
                self.processes[name] = subprocess.Popen(
                    [BINARY, kind, "--model", MODEL, "--data", self.folder / "data", *where],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: all(self.states().get(name) == "ready" for name in names if name != "router"), 20, names)

    def states(self):
        with Dealer(self.endpoint) as client:
            try:
                stages = client.one({"status": {}}, 2).content["stages"]
            except TimeoutError:
                return {}
            return {w["name"]: w["state"] for s in stages for w in s.get("workers", [])}

    def end(self, name, number):
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(20)

    def __enter__(self):
        self.start(*PARTS)
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(10)


def turn(client, tokens, new, session=None):
    more = {"session": session} if session else {}
    return client.generate(tokens, new, include={"logprobs": True}, **more)


@pytest.mark.parametrize("ending", ("cancelled", "Router killed"))
@pytest.mark.parametrize("stage", ("decider", "core", "coda"))
def test_a_request_that_failed_elsewhere_leaves_nothing_behind(binary, tmp_path, stage, ending):
    """Its worker kept a copy of the session with its rows, and was believed when the session came by again."""
    own, other = f"{stage}-0", f"{stage}-1"
    with Parts(tmp_path) as parts:
        with Dealer(parts.endpoint) as client:
            history = FIRST + turn(client, FIRST, 1, "s")["tokens"]
            parts.start(other)
            parts.end(own, signal.SIGTERM)
            lost = client.send({"generate": {"tokens": LOST, "max_new_tokens": 40, "session": "s"}})
            while client.receive().kind != "token":
                pass
            if ending == "cancelled":
                client.send({"cancel": {"id": lost}})
            else:
                parts.end("router", signal.SIGKILL)
                parts.start("router")
            wait_for(lambda: parts.states().get(other) == "ready", 20, other)
        parts.start(own)
        with Dealer(parts.endpoint) as client:
            history += SECOND + turn(client, SECOND, 1, "s")["tokens"]
            parts.end(own, signal.SIGTERM)
            found = turn(client, THIRD, 3, "s")
            alone = turn(client, history + THIRD, 3)
    for key in ("tokens", "depths", "logprobs"):
        assert found[key] == alone[key]


def test_rows_of_a_killed_router_are_nobodys(binary, tmp_path):
    """A coda that stood still had a row of an older request of the session, and went on with it."""
    first, lost, second = [1, 4, 10, 6, 9, 11], [5, 6], [4, 6, 13, 12, 4, 7, 8, 10] * 4
    with Parts(tmp_path) as parts:
        with Dealer(parts.endpoint) as client:
            history = first + turn(client, first, 4, "s")["tokens"]
            alone = turn(client, history + second, 12)
            client.send({"generate": {"tokens": lost, "max_new_tokens": 40, "session": "s"}})
            while client.receive().kind != "token":
                pass
            parts.processes["coda-0"].send_signal(signal.SIGSTOP)
            time.sleep(0.2)  # until the row is in its inbox
        parts.end("router", signal.SIGKILL)
        parts.start("router")
        wait_for(lambda: parts.states().get("core-0") == "ready", 20, "core-0")
        with Dealer(parts.endpoint) as client:
            id = client.send({"generate": {"tokens": second, "max_new_tokens": 12, "session": "s",
                                           "include": {"logprobs": True}}})
            time.sleep(0.3)
            parts.processes["coda-0"].send_signal(signal.SIGCONT)
            found = client.collect([id])[id][-1].content
    for key in ("tokens", "depths", "logprobs"):
        assert found[key] == alone[key]
