"""A client for an ANIRA suite in one file: JSON over a ZeroMQ DEALER socket. Needs pyzmq.

    with Anira("tcp://127.0.0.1:5555") as anira:
        print(anira.generate("<bos> + 3 2 <ans>", max_new_tokens=1)["text"])

One Anira belongs to one thread. Messages of the protocol are plain dicts, as docs/protocol.md describes them.
When the connection was lost, requests without an ending are sent again: their ids see to it that none runs twice.
"""

import json
import time
import uuid
from collections import deque

import zmq
from zmq.utils.monitor import recv_monitor_message


class AniraError(Exception):
    """The suite answered with an error; `code` is one of the protocol's."""

    def __init__(self, code, message, retry_after_ms=None):
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.retry_after_ms = code, message, retry_after_ms


class AniraTimeout(AniraError):
    """No answer in time. `request_id` may be sent again, or asked for with result(): it never runs twice."""

    def __init__(self, endpoint, timeout, request_id):
        super().__init__("TIMEOUT", f"no answer from {endpoint} within {timeout} s to request '{request_id}'")
        self.request_id = request_id


class _Open:
    """A request without an ending: what was sent, what is asked of its replies next, those not yet taken."""

    def __init__(self, body):
        self.body, self.accepted, self.tokens, self.replies = body, False, 0, deque()

    def is_news(self, kind, content):
        """Not what was said before the connection was lost, nor a token that does not follow the last one."""
        if kind == "accepted":
            known, self.accepted = self.accepted, True
            return not known
        if kind == "token":
            follows = content["index"] == self.tokens
            self.tokens += follows
            return follows
        return True


class _Stream:
    """The replies of a streamed request; closing it before the last, or letting it go, cancels the request."""

    def __init__(self, anira, id):
        self._anira, self._id, self._ended = anira, id, False

    def __iter__(self):
        return self

    def __next__(self):
        while not self._ended:
            try:
                kind, content = self._anira._receive(self._id)
            except AniraError:
                self._end()
                raise
            if kind == "completed":
                self._end()
            if kind != "accepted":
                return content
        raise StopIteration

    def _end(self):
        self._ended = True
        del self._anira._open[self._id]

    def close(self):
        if not self._ended and not self._anira._socket.closed:
            self._end()
            del self._anira._open[self._anira._send({"cancel": {"id": self._id}})]

    __del__ = close


class Anira:
    def __init__(self, endpoint="tcp://127.0.0.1:5555", timeout=30.0):
        """timeout: seconds without any reply after which a call raises AniraTimeout."""
        self.endpoint, self.timeout = endpoint, timeout
        self._open = {}  # by id
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 500)
        self._socket.setsockopt(zmq.SNDTIMEO, int(timeout * 1000))
        self._connections = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._connected = False
        self._socket.connect(endpoint)

    def close(self):
        self._socket.disable_monitor()
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # --- operations ---

    def generate(self, prompt, *, stream=False, id=None, deadline_ms=None, **fields):
        """Continues a prompt (text, or a list of token ids); the `completed` message.

        fields: max_new_tokens, stop_tokens, session, depth, sampling, include. With stream=True an iterator over
        the `token` messages that ends with the `completed` one; leaving it early cancels the request. After a lost
        connection tokens may be missing from the iterator; `completed` has them all.
        """
        id = self._send({"generate": _prompt(prompt) | fields | {"stream": stream}}, id, deadline_ms)
        return _Stream(self, id) if stream else self._ending(id)

    def score(self, prompt, *, id=None, deadline_ms=None, **fields):
        """Log-probabilities and depths of a prompt; fields: depth, include.

        With include={"logits": True} the raw little-endian float32 bytes come as the message's "logits_bytes".
        """
        return self._ending(self._send({"score": _prompt(prompt) | fields}, id, deadline_ms))

    def cancel(self, id):
        return self._answer({"cancel": {"id": id}})

    def result(self, id):
        """The ending of a request sent before, by anyone."""
        return self._ending(self._send({"result": {"id": id}}))

    def drop_session(self, name):
        return self._answer({"drop_session": {"session": name}})

    def status(self):
        return self._answer({"status": {}})

    def models(self):
        return self._answer({"models": {}})["models"]

    # --- messages ---

    def _send(self, operation, id=None, deadline_ms=None):
        if not isinstance(id, (str, type(None))):
            raise TypeError(f"id must be a string, found {id!r}")
        body = {"id": id or uuid.uuid4().hex} | operation
        if body["id"] in self._open:
            raise ValueError(f"request '{id}' is still open here; take its replies to the end first, or use another Anira")
        if deadline_ms is not None:
            body["deadline_ms"] = deadline_ms
        opened = _Open(json.dumps(body, allow_nan=False).encode())
        try:
            self._socket.send(opened.body)
        except zmq.Again:
            raise AniraTimeout(self.endpoint, self.timeout, body["id"]) from None
        self._open[body["id"]] = opened
        return body["id"]

    def _receive(self, id):
        """(kind, content) of the next reply to this id. Others' wait for their turn; those given up are dropped."""
        end = time.monotonic() + self.timeout
        poller = zmq.Poller()
        for each in (self._socket, self._connections):
            poller.register(each, zmq.POLLIN)
        while not self._open[id].replies:
            ready = dict(poller.poll(max(0, int((end - time.monotonic()) * 1000))))
            if not ready:
                raise AniraTimeout(self.endpoint, self.timeout, id)
            if self._connections in ready:
                self._resume()
            if self._socket in ready:
                self._take(id, *self._socket.recv_multipart())
                end = time.monotonic() + self.timeout
        kind, content = self._open[id].replies.popleft()
        if kind == "error":
            raise AniraError(content["code"], content["message"], content.get("retry_after_ms"))
        return kind, content

    def _resume(self):
        """Whatever the first connection's peer was told, the next one's is told again."""
        recv_monitor_message(self._connections)
        if self._connected:
            for opened in self._open.values():
                self._socket.send(opened.body)
        self._connected = True

    def _take(self, id, body, *frames):
        """Keeps a reply for its request; `id` is the one that is waited for."""
        reply = json.loads(body)
        to = reply.pop("id", "")
        (kind, content), = reply.items()
        if not to and kind == "error":  # a message that could not be read at all: this call's, as far as one can tell
            to = id
        opened = self._open.get(to)
        if opened and opened.is_news(kind, content):
            opened.replies.append((kind, content | ({"logits_bytes": frames[0]} if frames else {})))

    def _answer(self, operation):
        """The one reply of an operation that does not run."""
        id = self._send(operation)
        try:
            return self._receive(id)[1]
        finally:
            del self._open[id]

    def _ending(self, id):
        try:
            while True:
                kind, content = self._receive(id)
                if kind in ("completed", "scored"):
                    return content
        finally:
            del self._open[id]


def _prompt(prompt):
    return {"text": prompt} if isinstance(prompt, str) else {"tokens": list(prompt)}
