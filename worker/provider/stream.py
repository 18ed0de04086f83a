"""An answer awaited as server-sent events, which keep the line alive, and put together from them.

When silence is a fault: never while the model may be thinking, for a reasoning model does so for minutes between
events. Only amid an event or a text must more follow soon, and after the last event the stream's end.
"""

from collections.abc import Collection
from typing import Final

import httpx

from jobs.errors import ErrorKind, Failure
from jobs.event_stream import OnEvents
from jobs.job import CallReport
from jobs.model_catalog import Model
from worker.provider.call_handle import CallHandle
from worker.provider.http_exchange import (
    Endpoint,
    Received,
    ended_here,
    is_late,
    is_success,
    overdue,
    too_large,
)
from worker.provider.sse import EventParser, EventTooLarge, begins_as_events
from worker.provider.stream_assembly import Assembly
from worker.provider.transport_errors import BREAKS

EVENT_STREAM: Final = "text/event-stream"
END_SECONDS: Final = 2.0
"""How long after the last event the stream may take to end; a chunk of its own may name the cost."""


class Incoming:
    """A body that was to be events, or was to be none: taken for what it is, whatever its content type says."""

    def __init__(self, limit: int, assembly: Assembly) -> None:
        """Neither an event nor a body without events may be larger than `limit` bytes."""
        self._limit = limit
        self._parser = EventParser(limit)
        self._assembly = assembly
        self._chunks: list[bytes] = []
        self._size = 0
        self._is_stream: bool | None = None

    def take(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            EventTooLarge: they are beyond the limit.
        """
        if self._is_stream is None:
            chunk = b"".join([*self._chunks, chunk])
            self._chunks.clear()
            self._size = 0
            self._is_stream = begins_as_events(chunk)
        if self._is_stream:
            for event in self._parser.feed(chunk):
                self._assembly.take(event)
            return
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > self._limit:
            raise EventTooLarge

    def max_wait(self, stall: float) -> float | None:
        """How long nothing may come before that is a fault; None while silence is none."""
        if self._assembly.has_ended:
            return END_SECONDS
        is_amid_event = self._is_stream and self._parser.is_amid_event
        return stall if self._assembly.is_amid_text or is_amid_event else None

    def end(self, *, is_broken: bool) -> bytes | None:
        """The response, once no more comes: as the events make it, or as it came. None where events make none."""
        if not self._is_stream:
            return b"".join(self._chunks) or None
        last = self._parser.end()
        if last is not None:
            self._assembly.take(last)
        self._assembly.close(is_broken=is_broken)
        return self._assembly.body() if self._assembly.is_answered else None


def call_stream(
    endpoint: Endpoint,
    request: httpx.Request,
    model: Model,
    ends_at: float,
    handle: CallHandle,
    *,
    stall: float,
    on_events: OnEvents | None = None,
    emitted: Collection[str] = (),
) -> CallReport:
    """Send one request and read its events to the last; `stall` is how long a text may stand still.

    `heard` is told canonical events as they come, and must not raise; `told` are the identities of the items that
    earlier attempts told of.
    """
    assembly = Assembly(limit=endpoint.max_answer_bytes, record=on_events, emitted=emitted)

    def read(response: httpx.Response, ends_at: float, handle: CallHandle) -> Received:
        if is_success(response.status_code):
            return _read_events(response, ends_at, handle, stall, endpoint.max_answer_bytes, assembly)
        return endpoint.read_whole(response, ends_at, handle)

    came = ended_here(handle) or endpoint.exchange(request, ends_at, handle, read)
    return endpoint.report(came, handle, model)


def _read_events(
    response: httpx.Response,
    ends_at: float,
    handle: CallHandle,
    stall: float,
    limit: int,
    assembly: Assembly,
) -> Received:
    incoming = Incoming(limit, assembly)
    fault = None
    is_broken = True
    try:
        for _ in map(
            incoming.take, response.iter_bytes()
        ):  # unlike a loop, it holds no chunk while the next is awaited
            if is_late(ends_at, handle):
                fault = overdue()
            handle.set_idle_timeout(incoming.max_wait(stall))
        is_broken = fault is not None
    except EventTooLarge:
        fault = too_large(limit)
    except httpx.ReadTimeout:
        fault = overdue()
    except BREAKS:
        pass  # what had come before the line broke counts
    handle.set_idle_timeout(None)
    body = incoming.end(is_broken=is_broken or handle.aborted is not None)
    if body is None and fault is None:
        fault = Failure(ErrorKind.INTERRUPTED, "The provider's stream ended before its last event.")
    fault = None if assembly.is_answered else fault
    return Received(response.status_code, response.headers, body or b"", fault, assembly.raw)
