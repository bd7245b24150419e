"""Runs the product as its users do: `anira up` as a process, clients over pyzmq, nothing imported from it.

Every wait is bounded, every address is on the loopback, every port is one the kernel picked.
"""

import hashlib
import itertools
import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import zmq

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("ANIRA_BIN", ROOT / ".build/release/anira"))
GOLDEN = Path(os.environ.get("ANIRA_GOLDEN", ROOT / "Tests/Golden"))
SHIPPED = Path(os.environ.get("ANIRA_CHECKPOINTS", ROOT / "checkpoints"))
KINDS = ("router", "decider", "core", "coda")
TERMINAL = ("completed", "scored", "error")
START_S, STOP_S, ANSWER_S = 30, 40, 30

_context = zmq.Context.instance()
_numbers = itertools.count()


def fresh_id(word="r"):
    """An id nobody has used, whatever was left in a data folder."""
    return f"{word}-{os.getpid()}-{next(_numbers)}"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(condition, seconds, what):
    """The condition's first true value; an assertion names what did not happen."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"after {seconds} s still waiting for {what}"
        time.sleep(0.02)


# --- /proc -----------------------------------------------------------------------------------------------------

def _parent(pid):
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, parent = text.rpartition(")")[2].split()[:2]
    return None if state == "Z" else int(parent)


def alive(pid):
    return _parent(pid) is not None


def descendants(pid):
    parents = {int(p): _parent(int(p)) for p in os.listdir("/proc") if p.isdigit()}
    found, border = [], {pid}
    while border:
        border = {p for p, parent in parents.items() if parent in border}
        found += sorted(border)
    return found


def words_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def status_kib(pid, field):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


# --- the suite of processes ------------------------------------------------------------------------------------

class Refused(Exception):
    """`anira up` ended instead of getting ready."""

    def __init__(self, code, out, err):
        super().__init__(f"exit code {code}\nstdout: {out}\nstderr: {err}")
        self.code, self.out, self.err = code, out, err


def run(*words, timeout=30, env=None):
    """One `anira` command to its end."""
    return subprocess.run([BINARY, *map(str, words)], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, env=os.environ | (env or {}))


class Suite:
    """`anira up` on a checkpoint, with a temporary folder of its own so that left-overs show."""

    def __init__(self, model, folder, *, data=None, cores=1, deciders=1, codas=1, port=None, options=()):
        self.folder = Path(folder)
        self.data = Path(data) if data else self.folder / "data"
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.endpoint = f"tcp://127.0.0.1:{port or free_port()}"
        self.command = [str(BINARY), "up", "--model", str(model), "--data", str(self.data), "--endpoint",
                        self.endpoint, "--deciders", str(deciders), "--cores", str(cores), "--codas", str(codas),
                        *map(str, options)]
        self.ready_line = None
        self.seen = set()
        self.process = None

    def start(self):
        env = os.environ | {"TMPDIR": str(self.temporary), "XDG_RUNTIME_DIR": str(self.temporary)}
        self.log_path = self.folder / f"stderr-{next(_numbers)}.log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=log, env=env, start_new_session=True)
        self.output, announced = [], threading.Event()

        def read():
            for line in self.process.stdout:
                line = line.decode(errors="replace").rstrip("\n")
                self.output.append(line)
                if "ready" in line.lower() and not self.ready_line:
                    self.ready_line = line
                    announced.set()
            announced.set()
        self.reader = threading.Thread(target=read, daemon=True)
        self.reader.start()
        arrived = announced.wait(START_S)
        if not self.ready_line:
            ended = self._ended(3)
            code, err = self.process.returncode, self.log()
            self.kill()
            if not arrived or not ended:
                raise AssertionError(f"no ready line within {START_S} s\n{err}")
            raise Refused(code, "\n".join(self.output), err)
        self.seen |= set(descendants(self.process.pid))
        return self

    def log(self):
        return self.log_path.read_text(errors="replace")

    def workers(self):
        """Kind → pids of the service processes, told apart by their subcommand."""
        found = {kind: [] for kind in KINDS}
        for pid in descendants(self.process.pid):
            words = words_of(pid)
            if len(words) > 1 and words[1] in found:
                found[words[1]].append(pid)
        self.seen |= {pid for pids in found.values() for pid in pids}
        return found

    def pids(self):
        return [self.process.pid] + descendants(self.process.pid)

    def _ended(self, seconds):
        try:
            self.process.wait(seconds)
            return True
        except subprocess.TimeoutExpired:
            return False

    def stop(self, number=signal.SIGTERM):
        """Asks it to end; the exit code. A process left behind is an assertion."""
        self.seen |= set(descendants(self.process.pid))
        self.process.send_signal(number)
        ended = self._ended(STOP_S)
        left = [pid for pid in self.seen if alive(pid)]
        code = self.process.returncode
        self.kill()
        assert ended, f"still running {STOP_S} s after signal {number}"
        assert not left, f"left processes behind: {left}"
        return code

    def kill(self):
        """Only processes this object started: the group of its own session."""
        if self.process.poll() is None or any(alive(pid) for pid in self.seen):
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(10)
        self.reader.join(10)
        self.process.stdout.close()

    def left_files(self):
        """Socket and lock files, LMDB's own lock.mdb apart, and anything in the temporary folder."""
        left = [str(p) for p in self.temporary.rglob("*")]
        for path in self.data.rglob("*"):
            is_lock = "lock" in path.name and path.name != "lock.mdb"
            if is_lock or stat.S_ISSOCK(path.lstat().st_mode) or path.suffix in (".ipc", ".sock", ".pid") \
                    or path.name == "processors":
                left.append(str(path))
        return left

    def store(self, stage):
        """LMDB folders of a stage's workers: <data>/kv/<stage>/<worker>/."""
        return sorted(p.parent for p in (self.data / "kv" / stage).glob("*/data.mdb"))

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if kind:
            self.kill()
        else:
            assert self.stop() == 0, f"exit code {self.process.returncode}\n{self.log()}"


def fingerprint(folder):
    """Every file of a folder with the hash of its content, lock files apart."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(Path(folder).rglob("*")) if p.is_file() and "lock" not in p.name}


# --- clients ---------------------------------------------------------------------------------------------------

class Reply:
    """One reply: the decoded body, its kind and content, and the raw frames after it."""

    def __init__(self, body, frames, envelope=False):
        self.body, self.frames, self.envelope = body, frames, envelope
        self.id = body.get("id", "")
        self.kind = next((k for k in body if k != "id"), None)
        self.content = body.get(self.kind) if self.kind else None

    def __repr__(self):
        return f"<{self.id} {self.kind} {json.dumps(self.content)[:300]}>"


def decode(frames, proto=None):
    envelope = len(frames) > 1 and frames[0] == b""
    frames = frames[1:] if envelope else frames
    if frames[0][:1] == b"{":
        body = json.loads(frames[0])
    else:
        assert proto, f"a reply that is not JSON: {frames[0][:80]!r}"
        body = proto.to_dict(frames[0])
    return Reply(body, frames[1:], envelope)


class Dealer:
    """A DEALER client that keeps replies apart by id."""

    def __init__(self, endpoint, proto=None):
        self.proto = proto
        self.socket = _context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.sndtimeo = 5000
        self.socket.connect(endpoint)

    def send_frames(self, *frames):
        self.socket.send_multipart(frames)

    def send(self, operation, *, id=None, binary=False, **fields):
        """operation: {"generate": {…}}. Returns the id."""
        id = id or fresh_id()
        body = {"id": id} | operation | fields
        self.send_frames(self.proto.to_bytes(body) if binary else json.dumps(body).encode())
        return id

    def receive(self, seconds=ANSWER_S):
        if not self.socket.poll(max(0, int(seconds * 1000))):
            raise TimeoutError(f"no reply within {seconds:.1f} s")
        return decode(self.socket.recv_multipart(), self.proto)

    def collect(self, ids, seconds=ANSWER_S):
        """id → its replies, once each of the ids has ended."""
        open_ids, replies = set(ids), {id: [] for id in ids}
        end = time.monotonic() + seconds
        while open_ids:
            left = end - time.monotonic()
            try:
                reply = self.receive(max(left, 0))
            except TimeoutError:
                raise TimeoutError(f"{len(open_ids)} requests without an ending after {seconds} s, "
                                   f"of them {sorted(open_ids)[:3]}") from None
            assert reply.id in replies, f"a reply nobody asked for: {reply}"
            assert reply.id in open_ids, f"a reply after the ending: {reply}"
            replies[reply.id].append(reply)
            if reply.kind in TERMINAL:
                open_ids.discard(reply.id)
        return replies

    def stream(self, operation, seconds=ANSWER_S, **fields):
        """All replies of one request, the ending last."""
        id = self.send(operation, **fields)
        return self.collect([id], seconds)[id]

    def end(self, operation, seconds=ANSWER_S, **fields):
        return self.stream(operation, seconds, **fields)[-1]

    def one(self, operation, seconds=ANSWER_S, **fields):
        """The single reply of an operation that does not run: status, models, cancel, drop_session."""
        id = self.send(operation, **fields)
        reply = self.receive(seconds)
        assert reply.id == id, reply
        return reply

    def generate(self, tokens, n=16, seconds=ANSWER_S, **more):
        request = {"tokens": list(tokens), "max_new_tokens": n} | more
        reply = self.end({"generate": request}, seconds)
        assert reply.kind == "completed", reply
        return reply.content

    def score(self, tokens, seconds=ANSWER_S, **more):
        reply = self.end({"score": {"tokens": list(tokens)} | more}, seconds)
        assert reply.kind == "scored", reply
        return reply.content

    def quiet(self, seconds=0.3):
        """Nothing more arrives."""
        assert not self.socket.poll(int(seconds * 1000)), f"one reply too many: {self.receive(0)}"

    def close(self):
        self.socket.close(0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def ask(endpoint, body, seconds=ANSWER_S, proto=None):
    """One request through a REQ socket, which is one reply by its nature."""
    with _context.socket(zmq.REQ) as s:
        s.linger = 0
        s.connect(endpoint)
        s.send(json.dumps(body).encode() if isinstance(body, dict) else body)
        if not s.poll(int(seconds * 1000)):
            raise TimeoutError(f"no reply within {seconds} s")
        return decode(s.recv_multipart(), proto)


# --- protobuf --------------------------------------------------------------------------------------------------

class Proto:
    """The published anira.proto, compiled when the tests run."""

    FILE = ROOT / "Sources/Proto/anira.proto"

    def __init__(self, folder):
        from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
        self._json = json_format
        out = Path(folder) / "anira.binpb"
        # A descriptor set instead of --python_out: generated code only works beside its own protobuf release.
        subprocess.run(["protoc", f"-I{self.FILE.parent}", "--include_imports", f"--descriptor_set_out={out}",
                        self.FILE.name], check=True, timeout=30)
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
            pool.Add(file)
        make = lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"anira.v1.{name}"))
        self.Request, self.Reply = make("ClientRequest"), make("ClientReply")

    def to_bytes(self, body):
        return self._json.ParseDict(body, self.Request()).SerializeToString()

    def to_dict(self, raw):
        return self._json.MessageToDict(self.Reply.FromString(raw), preserving_proto_field_name=True)
