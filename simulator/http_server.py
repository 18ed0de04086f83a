"""An HTTP/1.1 server directly on asyncio transports, because faults happen below any web framework.

To reset a connection before the first byte, to promise more bytes than are sent, or to answer with something that is
not HTTP needs the transport itself. It is also the cheapest way to hold ten thousand calls: one protocol object, one
parser and one task each.

A client's FIN or RST cancels at once the task that works for it.
"""

import asyncio
import json
import logging
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import parse_qs, unquote

import httptools

log = logging.getLogger("simulator")

JSON: Final = "application/json; charset=utf-8"
HTML: Final = "text/html; charset=UTF-8"

_PIPELINE_LIMIT: Final = 16
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@dataclass(slots=True)
class Request:
    """One complete request. `oversized` is true if the body was too large and was not kept."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    oversized: bool
    keep_alive: bool

    @property
    def path(self) -> str:
        """The decoded path, without the query."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> dict[str, list[str]]:
        """Query parameters, each with all its values."""
        return parse_qs(self.target.partition("?")[2], keep_blank_values=True)


@dataclass(slots=True)
class Reply:
    """A complete answer."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, status: int, value: Any, headers: Mapping[str, str] | None = None) -> "Reply":
        """Return an answer whose body is `value` as JSON."""
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        return cls(status, body, headers=headers or {})


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"  # 520 to 529 are used but not registered


class ResponseWriter:
    """Writes the answer to one request: complete, in parts, or faulty."""

    __slots__ = ("_chunked", "_connection", "_keep_alive", "disconnected_at", "started")

    def __init__(self, connection: "Connection", *, keep_alive: bool) -> None:
        self._connection = connection
        self._keep_alive = keep_alive
        self._chunked = False
        self.started = False
        self.disconnected_at: float | None = None

    async def send(self, reply: Reply) -> None:
        """Send a complete answer."""
        headers = {"content-type": reply.content_type, **reply.headers}
        await self.begin(reply.status, headers, length=len(reply.body), body=reply.body)

    async def begin(
        self, status: int, headers: Mapping[str, str], *, length: int | None = None, body: bytes = b""
    ) -> None:
        """Send the head, with `length` as Content-Length, or chunked if it is None."""
        self.started = True
        self._chunked = length is None
        lines = [f"HTTP/1.1 {status} {_reason(status)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
        if not self._keep_alive:
            lines.append("connection: close")
        head = "\r\n".join(lines) + "\r\n\r\n"
        await self._connection.write(head.encode("latin-1") + body)

    async def write(self, data: bytes) -> None:
        """Send a part of the body."""
        await self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def end(self) -> None:
        """End a body that was sent in parts."""
        if self._chunked:
            await self._connection.write(b"0\r\n\r\n")

    async def send_raw(self, data: bytes) -> None:
        """Send bytes that need not be HTTP."""
        self.started = True
        await self._connection.write(data)

    def close(self) -> None:
        """Close the connection normally (FIN), whether or not the answer is complete."""
        self._keep_alive = False
        self._connection.close()

    def reset(self) -> None:
        """Reset the connection (RST)."""
        self._keep_alive = False
        self._connection.reset()

    def finish(self) -> None:
        """Close the connection unless the client may send another request on it."""
        if not self._keep_alive:
            self._connection.close()


Handler = Callable[[Request, ResponseWriter], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One client connection: parses requests and calls `handler` with one after the other."""

    def __init__(self, handler: Handler, open_connections: "set[Connection]", max_body_bytes: int) -> None:
        self._handler = handler
        self._open_connections = open_connections
        self._max_body_bytes = max_body_bytes
        self._queue: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._writer: ResponseWriter | None = None
        self._writable: asyncio.Future[None] | None = None
        self._closing = False
        self._parser = httptools.HttpRequestParser(self)
        self._start_message()

    def _start_message(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._oversized = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Stop the work for this client."""
        self._open_connections.discard(self)
        if self._writer is not None and not self._closing:
            self._writer.disconnected_at = time.time()
        self._closing = True
        if self._task is not None:
            self._task.cancel()

    def eof_received(self) -> bool | None:
        """Treat the client's FIN as a disconnect, also while an answer is being sent."""
        if self._task is not None:
            self._transport.abort()
        return None

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        if self._closing:
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.write(_BAD_REQUEST)
            self.close()

    def on_message_begin(self) -> None:
        """Reset the parser's state."""
        self._start_message()

    def on_url(self, url: bytes) -> None:
        """Add a part of the target, which may arrive in parts."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header field."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Ask for the body if the client waits for that."""
        if self._headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Add a part of the body, unless the body is too large."""
        if len(self._body) + len(body) > self._max_body_bytes:
            self._oversized = True
            self._body.clear()
        elif not self._oversized:
            self._body += body

    def on_message_complete(self) -> None:
        """Queue a complete request."""
        if len(self._queue) >= _PIPELINE_LIMIT:
            self.reset()
            return
        request = Request(
            method=self._parser.get_method().decode("latin-1"),
            target=self._target.decode("latin-1"),
            headers=self._headers,
            body=bytes(self._body),
            oversized=self._oversized,
            keep_alive=self._parser.should_keep_alive(),
        )
        self._start_message()
        self._queue.append(request)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._queue and not self._closing:
            request = self._queue.popleft()
            writer = self._writer = ResponseWriter(self, keep_alive=request.keep_alive)
            try:
                await self._handler(request, writer)
            except Exception:  # a bug must show as a 500 and a traceback, not as another scripted fault
                log.exception("request failed: %s %s", request.method, request.path)
                if writer.started:
                    writer.reset()
                else:
                    await writer.send(Reply.json(500, {"message": "the simulator itself failed"}))
            self._writer = None
            writer.finish()
        self._task = None

    async def write(self, data: bytes) -> None:
        """Send bytes, and wait while the client reads more slowly."""
        self._transport.write(data)
        if self._writable is not None:
            await self._writable

    def pause_writing(self) -> None:
        """Make `write` wait: the transport's buffer is full."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let `write` return: the transport's buffer has room again."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def close(self) -> None:
        """Send the buffered bytes, then FIN."""
        self._closing = True
        self._transport.close()

    def reset(self) -> None:
        """Send RST. Buffered bytes are lost."""
        self._closing = True
        raw: socket.socket | None = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def abort(self) -> "asyncio.Task[None] | None":
        """Abort the connection because the simulator stops. Return the cancelled task, if any."""
        self._closing = True
        self._transport.abort()
        if self._task is not None:
            self._task.cancel()
        return self._task
