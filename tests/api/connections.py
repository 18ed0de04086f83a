"""Raw connections, for requests that no HTTP client sends and answers that no HTTP client leaves unread."""

import json
import socket
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.api.world import MODEL, Json, Server

KB = 1024
MB = 1024 * KB
HEAD_LIMIT = 64 * KB
MAX_WAIT = 20
"""Seconds after which an operation on the socket fails."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Json:
        found: Json = json.loads(self.body)
        return found

    def assert_refused(self, status: int, code: str) -> None:
        """Assert that this is OpenAI's error and the last answer on its connection."""
        assert self.status == status, self
        error = self.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["code"] == code
        assert error["message"]
        assert self.headers["content-type"] == "application/json"
        assert self.headers["connection"] == "close"
        assert self.headers["x-request-id"].startswith("req_")


class RawConnection:
    """A TCP connection to a served API. The test writes and reads its bytes."""

    def __init__(self, server: Server, *, receives: int | None = None) -> None:
        """Connect. `receives` is the size of the receive buffer in bytes."""
        self.socket = socket.socket()
        if receives is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        self.socket.settimeout(MAX_WAIT)
        self.socket.connect(("127.0.0.1", server.port))
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> Self:
        for each in pieces:
            self.socket.sendall(each)
        return self

    def send_until_closed(self, pieces: Iterable[bytes]) -> int:
        """Send until the server closes the connection. Return the number of bytes sent."""
        sent = 0
        try:
            for each in pieces:
                self.socket.sendall(each)
                sent += len(each)
        except OSError:
            pass
        return sent

    def answer(self) -> Answer:
        """Read the next answer, which must have a `content-length` if it has a body."""
        while b"\r\n\r\n" not in self._unread:
            assert self._read(), f"the connection ended with {self._unread!r}"
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(each.split(": ", 1) for each in lines)
        length = int(headers.get("content-length", 0))
        while len(self._unread) < length:
            assert self._read(), "the connection ended within a body"
        body, self._unread = self._unread[:length], self._unread[length:]
        return Answer(int(status.split(" ")[1]), headers, body)

    def is_ended(self) -> bool:
        """Return whether the server has closed the connection. Blocks until it closes or sends something."""
        return not self._unread and not self._read()

    def _read(self) -> bool:
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionError:
            return False
        self._unread += data
        return data != b""


def head(method: str, path: str, secret: str | None = None, **headers: Any) -> bytes:
    """Return a request line and headers. `content_length=1` becomes `content-length: 1`."""
    fields = {"host": "x"} | ({} if secret is None else {"authorization": f"Bearer {secret}"})
    fields |= {name.replace("_", "-"): str(value) for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "\r\n"]).encode()


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    """Return `data` as one chunk of a chunked body."""
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


CREATE = json.dumps({"model": MODEL, "input": "Hello", "background": True}).encode()
HEALTH = head("GET", "/healthz")


@contextmanager
def limited_memory(limit: int) -> Iterator[None]:
    """Assert that Python's own memory grows by less than `limit` bytes."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / MB:.1f} MB were held"
