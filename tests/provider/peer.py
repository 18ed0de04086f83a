"""The provider's end of a connection, controlled by the test, and calls that run beside it.

Works with threads and, in a process that gevent has patched, with greenlets.
"""

import fcntl
import json
import socket
import ssl
import termios
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any, Self

from pydantic import SecretStr

from jobs.errors import Failure
from jobs.job import CallReport
from jobs.model_catalog import Model
from worker.provider.call_handle import KEEPALIVE, CallHandle
from worker.provider.client import ProviderClient

CERTIFICATE = Path(__file__).with_name("loopback.pem")
BODY = {"model": "some/model", "input": "Hello", "stream": False}
KEY = "sk-test-key"
SOON = 2.0
"""Seconds within which an aborted call has ended and its peer has seen it. The promise is 1 s on an idle machine."""

ANSWER = json.dumps(
    {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "model": "model-2026",
        "output": [{"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "Hi"}]}],
        "usage": {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8},
    }
).encode()


def head(status: str = "200 OK", **headers: object) -> bytes:
    """Return the start of an answer. Header names have underscores in place of hyphens."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{lines}\r\n".encode()


def whole(body: bytes = ANSWER, status: str = "200 OK", **headers: object) -> bytes:
    """Return an answer with its length."""
    return head(status, content_length=len(body), **headers) + body


class Peer:
    """One accepted connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(5)
        self.sock = sock
        self.received = b""

    def shake_hands(self) -> Self:
        self.sock = _server_context().wrap_socket(self.sock, server_side=True)
        return self

    def read_until(self, enough: Callable[[bytes], bool]) -> bytes:
        while not enough(self.received):
            data = self.sock.recv(65536)
            assert data, "the client hung up"
            self.received += data
        return self.received

    def read_request(self) -> tuple[bytes, dict[str, str], bytes]:
        """Return the first line, the headers and the body of a whole request."""
        top, _, rest = self.read_until(lambda data: b"\r\n\r\n" in data).partition(b"\r\n\r\n")
        first, *lines = top.split(b"\r\n")
        headers = {name.lower(): value for name, _, value in (line.decode().partition(": ") for line in lines)}
        length = int(headers.get("content-length", 0))
        self.read_until(lambda data: len(data) >= len(top) + 4 + length)
        return first, headers, self.received[len(top) + 4 :] if length else rest

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def all_has_arrived(self) -> bool:
        """Return whether the client's kernel has acknowledged everything."""
        unsent = fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        return unsent == b"\0\0\0\0"

    def reset(self) -> None:
        """Reset the connection instead of closing it."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.sock.close()

    def sees_the_end(self, within: float = SOON) -> bool:
        """Return whether the client disconnects in time. Further data is added to `received`."""
        self.sock.settimeout(within)
        try:
            while data := self.sock.recv(65536):
                self.received += data
        except TimeoutError:
            return False
        except OSError:
            pass  # a reset, or a TLS connection that ends without close_notify
        return True


class Server:
    """A listening socket on loopback."""

    def __init__(self, *, tls: bool = False, backlog: int = 128) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self._listener.settimeout(5)
        self._tls = tls
        self._accepted: list[Peer] = []
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/v1"

    def accept(self) -> Peer:
        """Return the next connection, ready to read from."""
        peer = self.accept_bare()
        return peer.shake_hands() if self._tls else peer

    def accept_bare(self) -> Peer:
        """Return the next connection, without a TLS handshake."""
        sock, _ = self._listener.accept()
        self._accepted.append(Peer(sock))
        return self._accepted[-1]

    def was_called(self, within: float = 0.1) -> bool:
        self._listener.settimeout(within)
        try:
            self.accept_bare()
        except TimeoutError:
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self._accepted:
            with suppress(OSError):
                peer.sock.close()
        self._listener.close()


class Pending:
    """A call that runs beside the test."""

    def __init__(self, call: Callable[[], CallReport]) -> None:
        self._reports: list[CallReport] = []
        self._thread = Thread(target=lambda: self._reports.append(call()), daemon=True)
        self._thread.start()

    def report(self, within: float = 5.0) -> CallReport:
        self._thread.join(within)
        assert not self._thread.is_alive(), "the call did not end in time"
        assert self._reports, "the call raised"
        return self._reports[0]


def client_for(server: Server, **options: Any) -> ProviderClient:
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    return ProviderClient(server.url, SecretStr(KEY), tls=context, **options)


def call(
    client: ProviderClient, handle: CallHandle | None = None, body: dict[str, Any] | None = None, deadline: float = 30
) -> CallReport:
    return client.call(
        dict(body or BODY),
        request_id="resp_0:1",
        model=Model("some/model"),
        deadline=timedelta(seconds=deadline),
        handle=handle or CallHandle(),
        accepted=_never,
    )


def start(
    client: ProviderClient, handle: CallHandle, body: dict[str, Any] | None = None, deadline: float = 30
) -> Pending:
    return Pending(lambda: call(client, handle, body, deadline))


def _never(response_id: str) -> None:
    raise AssertionError(f"{response_id} was reported on a transport without resumption")


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def exchange(
    server: Server, answer: bytes, then: Callable[[Peer], None] = lambda _: None, **options: Any
) -> CallReport:
    """Make one call that gets `answer`."""
    pending = start(client_for(server, **options), CallHandle())
    peer = server.accept()
    peer.read_request()
    peer.send(answer)
    then(peer)
    return pending.report()


def failure(report: CallReport) -> Failure:
    assert isinstance(report.result, Failure), report.result
    return report.result


class WatchedHandle(CallHandle):
    """Records the options of its socket."""

    __slots__ = ("options",)

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        super().trace(event, info)
        if event.endswith("connect_tcp.complete"):
            sock = info["return_value"].get_extra_info("socket")
            self.options = {(level, name): sock.getsockopt(level, name) for level, name, _ in KEEPALIVE}
