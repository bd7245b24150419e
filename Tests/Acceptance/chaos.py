"""Random signals to random services for some minutes, while clients check every answer: `make chaos MINUTES=10`.

Half of the clients repeat requests whose undisturbed answers are known. The others hold conversations in named sessions and
afterwards ask for each turn once more, without a session and from the first token on: bits must be the same. The run ends
with a look into the stores. Exit code 1: an answer was wrong or missing, or a store is damaged; what happened is printed, and
the suite's log and data are kept.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from suite import KINDS, ROOT, SHIPPED, Suite, alive, run

sys.path.insert(0, str(ROOT / "clients/python"))
from anira_client import Anira, AniraError  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV, signal.SIGSTOP)
SAME = ("tokens", "depths", "prompt_depths", "logprobs")
PATIENCE_S = 60
MOST_TOKENS, TURN_TOKENS = 48, 6


class Report:
    """What the clients found; shared by their threads."""

    def __init__(self):
        self.lock, self.right, self.wrong, self.seconds = threading.Lock(), Counter(), [], []

    def answer(self, kind, is_right, what, began):
        with self.lock:
            self.seconds.append(time.monotonic() - began)
            if is_right:
                self.right[kind] += 1
            else:
                self.wrong.append(f"{kind}: {what}")

    def fail(self, kind, error):
        with self.lock:
            self.wrong.append(f"{kind}: {error}")


def known_answers(endpoint, chance, vocabulary, count=64):
    """Requests and what they give undisturbed."""
    requests = [{"prompt": chance.choices(range(vocabulary), k=chance.randrange(3, 40)),
                 "max_new_tokens": chance.randrange(1, 24), "include": {"logprobs": True}} for _ in range(count)]
    with Anira(endpoint, timeout=PATIENCE_S) as anira:
        return [(request, anira.generate(**request)) for request in requests]


def repeat(anira, chance, known, report, ends):
    """Requests whose answers are known, alone."""
    while time.monotonic() < ends:
        request, answer = chance.choice(known)
        began = time.monotonic()
        found = anira.generate(**request)
        report.answer("request", all(found[k] == answer[k] for k in SAME), f"{request} gave {found}", began)


def turn(anira, history, session, prompt, **more):
    """One turn; nothing stays of one that its deadline ended."""
    began = time.monotonic()
    try:
        found = anira.generate(prompt, session=session, max_new_tokens=TURN_TOKENS, include={"logprobs": True}, **more)
    except AniraError as error:
        if "deadline_ms" in more and error.code == "DEADLINE_EXCEEDED":
            return None
        raise
    history += prompt
    before = list(history)
    history += found["tokens"]
    return before, found, began


def converse(anira, chance, known, report, ends):
    """Conversations, each turn of which is asked for again without its session. Some turns have next to no time."""
    while time.monotonic() < ends:
        session, history, turns = f"chaos-{chance.getrandbits(60):x}", [], []
        while len(history) < MOST_TOKENS:
            prompt = chance.choice(known)[0]["prompt"][:3]
            haste = {"deadline_ms": chance.randrange(1, 30)} if chance.random() < 0.3 else {}
            turns.append(turn(anira, history, session, prompt, **haste))
        anira.drop_session(session)
        for before, found, began in filter(None, turns):
            again = anira.generate(before, max_new_tokens=TURN_TOKENS, include={"logprobs": True})
            is_right = all(again[k] == found[k] for k in ("tokens", "depths", "logprobs"))
            report.answer("turn", is_right, f"{before} gave {found} in a session, {again} alone", began)


def client(work, endpoint, seed, known, report, ends):
    with Anira(endpoint, timeout=PATIENCE_S) as anira:
        try:
            work(anira, random.Random(seed), known, report, ends)
        except AniraError as error:
            report.fail(work.__name__, error)


def disturb(suite, chance, sent):
    """One signal to one service; who is stopped goes on a little later."""
    kind, number = chance.choice(KINDS), chance.choice(SIGNALS)
    if (kind, number) == ("router", signal.SIGTERM):
        return  # asked to end, it tells its clients so
    pids = suite.workers()[kind]
    if not pids:
        return
    pid = chance.choice(pids)
    try:
        os.kill(pid, number)
        if number == signal.SIGSTOP:
            time.sleep(chance.choice((0.1, 1, 4)))
            if alive(pid):
                os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return  # it had just ended
    sent[f"{kind} {number.name}"] += 1


def say(report, sent, began):
    right = ", ".join(f"{count:,} {kind}s" for kind, count in sorted(report.right.items())) or "none"
    print(f"{time.monotonic() - began:5.0f} s: right {right}; wrong {len(report.wrong)}; "
          f"{sum(sent.values())} signals", flush=True)


def run_chaos(suite, options, vocabulary):
    chance, report, sent = random.Random(options.seed), Report(), Counter()
    known = known_answers(suite.endpoint, chance, vocabulary)
    began = said = time.monotonic()
    ends = began + options.minutes * 60
    threads = [threading.Thread(target=client, args=(work, suite.endpoint, f"{options.seed} {i}", known, report, ends))
               for i in range(options.clients) for work in (repeat, converse)]
    for thread in threads:
        thread.start()
    while time.monotonic() < ends:
        time.sleep(chance.expovariate(1 / options.pause))
        disturb(suite, chance, sent)
        if time.monotonic() - said > 10:
            said = time.monotonic()
            say(report, sent, began)
    for thread in threads:
        thread.join()
    say(report, sent, began)
    print("signals: " + ", ".join(f"{what} {count}" for what, count in sorted(sent.items())))
    if len(report.seconds) > 1:
        print(f"an answer took {statistics.median(report.seconds):.2f} s in the median, {max(report.seconds):.1f} at most")
    return report.wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--clients", type=int, default=4, help="of each of the two kinds")
    parser.add_argument("--pause", type=float, default=1.5, help="mean seconds from one signal to the next")
    parser.add_argument("--seed", default=str(time.time_ns()), help="of requests and signals; timing stays chance")
    parser.add_argument("--model", type=Path, default=SHIPPED / "mano-online")
    options = parser.parse_args()
    vocabulary = json.loads((options.model / "config.json").read_text())["vocab_size"]
    folder = Path(tempfile.mkdtemp(prefix="anira-chaos-"))
    print(f"seed {options.seed}, {options.minutes:g} minutes; log and data in {folder}")
    suite = Suite(options.model, folder, cores=2, options=("--resident-mib", "4"))
    try:
        with suite:
            faults = run_chaos(suite, options, vocabulary)
        verified = run("kv", "verify", "--data", suite.data, timeout=300)
        print(verified.stdout.strip())
        if verified.returncode:
            faults.append(f"anira kv verify: {verified.stderr.strip()}")
        faults += [f"set aside: {path}" for path in suite.data.rglob("*.damaged")]
    except AssertionError as error:
        faults = [f"the suite did not start or end as it should: {error}"]
    for fault in faults[:20]:
        print(fault)
    if not faults:
        shutil.rmtree(folder)
    sys.exit(f"{len(faults)} faults; see {folder}" if faults else 0)


if __name__ == "__main__":
    main()
