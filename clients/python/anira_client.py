"""A client for an ANIRA suite in one file: JSON over a ZeroMQ DEALER socket. Needs pyzmq.

    with Anira("tcp://127.0.0.1:5555") as anira:
        print(anira.generate("<bos> + 3 2 <ans>", max_new_tokens=1)["text"])

One Anira belongs to one thread. Messages of the protocol are plain dicts, as docs/protocol.md describes them.
"""

import json
import time
import uuid
from collections import deque

import zmq


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


class Anira:
    def __init__(self, endpoint="tcp://127.0.0.1:5555", timeout=30.0):
        """timeout: seconds without any reply after which a call raises AniraTimeout."""
        self.endpoint, self.timeout = endpoint, timeout
        self._replies = {}      # id of a request not ended: its replies not yet taken
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 500)
        self._socket.setsockopt(zmq.SNDTIMEO, int(timeout * 1000))
        self._socket.connect(endpoint)

    def close(self):
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # --- operations ---

    def generate(self, prompt, *, stream=False, id=None, deadline_ms=None, **fields):
        """Continues a prompt (text, or a list of token ids); the `completed` message.

        fields: max_new_tokens, stop_tokens, session, depth, sampling, include. With stream=True an iterator over
        the `token` messages that ends with the `completed` one; leaving it early cancels the request.
        """
        id = self._send({"generate": _prompt(prompt) | fields | {"stream": stream}}, id, deadline_ms)
        return self._stream(id) if stream else self._ending(id)

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
        if deadline_ms is not None:
            body["deadline_ms"] = deadline_ms
        try:
            self._socket.send(json.dumps(body, allow_nan=False).encode())
        except zmq.Again:
            raise AniraTimeout(self.endpoint, self.timeout, body["id"]) from None
        self._replies[body["id"]] = deque()
        return body["id"]

    def _receive(self, id):
        """(kind, content) of the next reply to this id. Others' wait for their turn; those given up are dropped."""
        end = time.monotonic() + self.timeout
        while not self._replies[id]:
            if not self._socket.poll(max(0, int((end - time.monotonic()) * 1000))):
                raise AniraTimeout(self.endpoint, self.timeout, id)
            body, *frames = self._socket.recv_multipart()
            reply = json.loads(body)
            to = reply.pop("id", "")
            (kind, content), = reply.items()
            if not to and kind == "error":  # a message that could not be read at all: this call's, as far as one can tell
                self._replies[id].append((kind, content))
            waiting = self._replies.get(to)
            if waiting is not None:
                waiting.append((kind, content | ({"logits_bytes": frames[0]} if frames else {})))
        kind, content = self._replies[id].popleft()
        if kind == "error":
            raise AniraError(content["code"], content["message"], content.get("retry_after_ms"))
        return kind, content

    def _answer(self, operation):
        """The one reply of an operation that does not run."""
        id = self._send(operation)
        try:
            return self._receive(id)[1]
        finally:
            del self._replies[id]

    def _ending(self, id):
        try:
            while True:
                kind, content = self._receive(id)
                if kind in ("completed", "scored"):
                    return content
        finally:
            del self._replies[id]

    def _stream(self, id):
        ended = False
        try:
            while not ended:
                kind, content = self._receive(id)
                ended = kind == "completed"
                if kind != "accepted":
                    yield content
        except AniraError:
            ended = True
            raise
        finally:
            del self._replies[id]
            if not ended:
                del self._replies[self._send({"cancel": {"id": id}})]


def _prompt(prompt):
    return {"text": prompt} if isinstance(prompt, str) else {"tokens": list(prompt)}
