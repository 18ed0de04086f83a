"""uvicorn's HTTP/1.1 protocol, with limits on the size and the time of requests and on slow readers.

uvicorn's parser has none: it keeps a head of any size, and waits for ever for the next byte. So bytes are counted
before they are parsed, and `api.connection_limits` checks every connection from time to time.
"""

import asyncio
import fcntl
import json
import struct
import sys
import termios
from typing import Any, Final, cast

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.connection_limits import STATE, Connections, Ended, Limits
from api.errors import FINAL, HEAD_TOO_LARGE, NOT_HTTP, NOT_KEPT, TOO_MANY_CONNECTIONS, TOO_SLOW, Fault, error_body
from jobs.ids import new_id

LARGEST_HEAD: Final = 64 * 1024
"""Most bytes of a request's line and headers, and again of what is between and after the chunks of its body."""
USUAL_HEAD: Final = 8 * 1024
"""Bytes parsed at once if a head may end among them: those of them that belong to the body are not counted."""
CHUNK_FRAME: Final = 12
"""Bytes around each chunk that are not counted: its size and two line ends."""
MOST_CHUNKS: Final = 64 * 1024
SMALLEST_CHUNKS: Final = 64
"""Least mean size of chunks, in bytes, beyond `MOST_CHUNKS`: each chunk costs as much work as a thousand bytes."""
MOST_PIPELINED: Final = 32
"""Requests that may wait behind the one being answered; with more, the connection is closed."""
LEAST_TAKEN: Final = 16 * 1024
"""Bytes that a reader must take within its time limit, unless it takes all there are."""
PAUSES: Final = 10
SLOWEST_BODY: Final = 1024
"""Bytes per second that a body must reach once it has taken `PAUSES` times the time limit."""
LINGER_SECONDS: Final = 2.0
"""Seconds for which a refused connection stays open: closing it with unread bytes resets it, and its client never sees
the error."""
RETRY_AFTER: Final = {"retry-after": "1"}


class Protocol(HttpToolsProtocol):
    """One connection: `uvicorn --http api.http_protocol:Protocol`."""

    _out: "_Transport"

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        if STATE not in app_state:  # another app
            app_state[STATE] = Connections(Limits())
        self._process: Connections = app_state[STATE]
        self._running: RequestResponseCycle | None = None
        self._is_in_body = False
        self._heads = 0
        self._head_bytes = 0
        self._body_bytes = 0
        self._frame_bytes = 0
        self._chunks = 0
        self._waits_since: float | None = None
        """Time since which the next bytes of a request are awaited; None if none are."""
        self._body_since = 0.0
        self._taken = 0
        self._untaken_since: float | None = None
        self._ends_at: float | None = None
        self._ignores_input = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start: a client has connected."""
        self._out = _Transport(cast("asyncio.Transport", transport))
        super().connection_made(cast("asyncio.Transport", self._out))
        self._waits_since = self.loop.time()
        self._process.add(self, self.loop)
        if self._process.is_full:
            self._process.refused += 1
            if self._process.is_crowded:
                self._out.abort()
            else:
                self._refuse(TOO_MANY_CONNECTIONS, "This server has too many connections. Try again.", RETRY_AFTER)

    def connection_lost(self, exc: Exception | None) -> None:
        """End: the connection is closed."""
        self._process.remove(self)
        self.pipeline.clear()
        if self._running is not None and self._running is not self.cycle:  # uvicorn marks only the last request
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes in pieces, so that a head never exceeds its limit."""
        if not (self._is_in_body or self._head_bytes or self._ignores_input) and len(data) <= USUAL_HEAD:
            self._feed_head(data)  # nearly always a whole request
            return
        while data and not self._ignores_input and not self._out.is_closing():
            most = LARGEST_HEAD if self._is_in_body else min(USUAL_HEAD, LARGEST_HEAD - self._head_bytes)
            piece, data = (data, b"") if len(data) <= most else (data[:most], data[most:])
            if self._is_in_body:
                self._feed_body(piece)
            else:
                self._feed_head(piece)

    def _feed_head(self, piece: bytes) -> None:
        heads = self._heads
        super().data_received(piece)
        if self._heads == heads:
            if self._waits_since is None:
                self._waits_since = self.loop.time()
            self._head_bytes += len(piece)
            if self._head_bytes >= LARGEST_HEAD:
                self._refuse_as_too_large("The request line and headers")
        elif self._is_in_body:
            self._begin_body()

    def _feed_body(self, piece: bytes) -> None:
        cycle, before, heads = self.cycle, len(self.cycle.body), self._heads
        super().data_received(piece)
        if not self._is_in_body:
            return
        if self._heads != heads:
            self._begin_body()
        if self.cycle is not cycle or cycle.response_complete:
            return
        self._waits_since = self.loop.time()
        got = len(cycle.body) - before
        self._body_bytes += got
        self._frame_bytes += len(piece) - got
        if self._frame_bytes - self._chunks * CHUNK_FRAME > LARGEST_HEAD:
            self._refuse_as_too_large("The extensions of chunks and the trailers")
        elif self._chunks > MOST_CHUNKS + self._body_bytes // SMALLEST_CHUNKS:
            self._refuse(NOT_HTTP, "The body's chunks are too small.", FINAL)

    def _begin_body(self) -> None:
        self._waits_since = self._body_since = self.loop.time()
        self._body_bytes = self._frame_bytes = self._chunks = 0

    def on_headers_complete(self) -> None:
        """Handle the end of a request's head."""
        if len(self.pipeline) >= MOST_PIPELINED:
            raise _TooManyAhead
        before = self.cycle
        super().on_headers_complete()
        self._heads += 1
        self._head_bytes = 0
        if self.cycle is not before:  # else it becomes a WebSocket
            self._is_in_body = True
            self.headers = []  # trailers must not change the headers that the app was given

    def on_chunk_header(self) -> None:
        """Handle the header of a chunk."""
        self._chunks += 1

    def on_message_complete(self) -> None:
        """Handle the end of a request."""
        super().on_message_complete()
        self._is_in_body = False
        self._waits_since = None

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the WebSocket protocol."""
        self._ignores_input = True
        self._process.remove(self)
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP."""
        self._refuse(NOT_HTTP, msg, FINAL)

    def look(self, now: float) -> Ended | None:
        """End the connection if it has taken too long by `now`, and return the reason."""
        limits = self._process.limits
        if self._reader_stalls(now, limits.write):
            self._out.abort()
            return Ended.STALLED_READER
        if self._ends_at is not None and now > self._ends_at:
            self._out.abort()
        if self._ignores_input:
            return None
        if self._waits_since is None:
            if self._has_begun_head:  # after the end of a request, and so not counted
                self._waits_since = now
        elif self._is_in_body:
            return self._look_at_body(now, self._waits_since, limits.body)
        elif self.cycle is not None and not self.cycle.response_complete:
            self._waits_since = now  # a request being answered is not ended because the next one is slow
        elif now - self._waits_since > limits.head:
            if self._head_bytes or self._has_begun_head:
                self._refuse(TOO_SLOW, f"The request's head did not arrive within {limits.head:g} s.")
            else:
                self._out.close()
            return Ended.SLOW_HEAD
        return None

    @property
    def _has_begun_head(self) -> bool:
        return self.cycle is not None and self.scope is not self.cycle.scope

    def _look_at_body(self, now: float, since: float, limit: float) -> Ended | None:
        if self.flow.read_paused or self.pipeline or self.cycle.waiting_for_100_continue:
            self._waits_since = now  # the client waits for this server
            return None
        if now - since <= limit and now - self._body_since <= PAUSES * limit + self._body_bytes / SLOWEST_BODY:
            return None
        self._refuse(TOO_SLOW, f"The request's body did not continue within {limit:g} s.")
        return Ended.SLOW_BODY

    def _reader_stalls(self, now: float, limit: float) -> bool:
        unsent = self._out.get_write_buffer_size()
        if not unsent:
            self._untaken_since = None
            return False
        taken = self._out.written - unsent - self._out.unacknowledged()
        if self._untaken_since is None or taken >= self._taken + LEAST_TAKEN:
            self._untaken_since, self._taken = now, taken
        return bool(now - self._untaken_since > limit)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _refuse_as_too_large(self, what: str) -> None:
        self._refuse(HEAD_TOO_LARGE, f"{what} are larger than {LARGEST_HEAD // 1024} KB.", FINAL)

    def _refuse(self, fault: Fault, message: str, headers: dict[str, str] | None = None) -> None:
        """Ignore further input, and end the connection with `fault` once all earlier requests are answered."""
        if self._ignores_input or self._out.is_closing():
            return
        self._ignores_input = True
        self._unset_keepalive_if_required()
        self.flow.resume_reading()  # to notice that the client leaves
        broken = self.cycle if self._is_in_body else None
        if self.pipeline and self.pipeline[0][0] is broken:
            self.pipeline.popleft()
        last = self.pipeline[0][0] if self.pipeline else self._running
        if last is not None and last is not broken and not last.response_complete:
            last.keep_alive = False
            return
        answer = b""
        if broken is None or not broken.response_started:
            answer = self._answer(fault, message, headers or {})
        if broken is not None:
            broken.disconnected = True
            broken.message_event.set()
        self._ends_at = self.loop.time() + LINGER_SECONDS
        self._out.end_with(answer)

    def _answer(self, fault: Fault, message: str, headers: dict[str, str]) -> bytes:
        body = json.dumps(error_body(message, fault.type, None, fault.code)).encode()
        fields = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-request-id": new_id("req"),
            "connection": "close",
            **NOT_KEPT,
            **headers,
        }
        lines = [b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in fields.items()]
        lines += [b"%b: %b\r\n" % each for each in self.server_state.default_headers]
        return b"".join((STATUS_LINE[fault.status], *lines, b"\r\n", body))


class _TooManyAhead(Exception):
    """Stops the parser: the client has sent too many requests ahead of their answers."""


class _Transport:
    """Counts the bytes written, so that the process can see how fast the client takes them."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.written = 0
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self._transport.write(data)

    def unacknowledged(self) -> int:
        """Return the bytes in the kernel that the client has not taken; it asks for more only in large steps."""
        connection = self._transport.get_extra_info("socket")
        if sys.platform != "linux" or connection is None:
            return 0
        try:
            (count,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
        except OSError:  # the socket is being closed
            return 0
        return int(count)

    def end_with(self, data: bytes) -> None:
        """Write the last bytes, and leave the client the time to read them."""
        if data:
            self._transport.write(data)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()
