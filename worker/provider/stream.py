"""An answer that is awaited as server-sent events, which keep the connection alive, and assembled from them.

Silence is an error only in the middle of an event or of a text, where more must follow soon, and after the last event,
where the stream must end. Between events a reasoning model may think for minutes.
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
    ExchangeResult,
    ResponsesApi,
    abort_failure,
    deadline_exceeded,
    disconnect_if_late,
    is_success,
    too_large,
)
from worker.provider.sse import EventParser, EventTooLarge, begins_as_events
from worker.provider.stream_assembly import StreamAssembly
from worker.provider.transport_errors import TRANSPORT_ERRORS

EVENT_STREAM: Final = "text/event-stream"
END_SECONDS: Final = 2.0
"""Seconds after the last event within which the stream must end; one more chunk may name the cost."""


class StreamBody:
    """A body that may or may not be a stream of events. Its content decides, not its content type."""

    def __init__(self, limit: int, assembly: StreamAssembly) -> None:
        """Limit each event, or a body without events, to `limit` bytes."""
        self._limit = limit
        self._parser = EventParser(limit)
        self._assembly = assembly
        self._chunks: list[bytes] = []
        self._size = 0
        self._is_stream: bool | None = None

    def take(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            EventTooLarge: the event or the body exceeds the limit.
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
        """Return the seconds of silence after which the call has stalled; None if silence is no error now."""
        if self._assembly.has_ended:
            return END_SECONDS
        is_amid_event = self._is_stream and self._parser.is_amid_event
        return stall if self._assembly.is_amid_text or is_amid_event else None

    def end(self, *, is_broken: bool) -> bytes | None:
        """Return the response, assembled from the events or as it was received; None if the events make none."""
        if not self._is_stream:
            return b"".join(self._chunks) or None
        last = self._parser.end()
        if last is not None:
            self._assembly.take(last)
        self._assembly.close(is_broken=is_broken)
        return self._assembly.body() if self._assembly.is_answered else None


def call_stream(
    api: ResponsesApi,
    request: httpx.Request,
    model: Model,
    ends_at: float,
    handle: CallHandle,
    *,
    stall: float,
    on_events: OnEvents | None = None,
    emitted: Collection[str] = (),
) -> CallReport:
    """Send one request and read its events to the last. A text that pauses for `stall` seconds has stalled.

    `on_events` is called with canonical events as they are received. It must not raise. `emitted` are the identities
    of items in earlier attempts' events.
    """
    assembly = StreamAssembly(limit=api.max_answer_bytes, on_events=on_events, emitted=emitted)

    def read(response: httpx.Response, ends_at: float, handle: CallHandle) -> ExchangeResult:
        if is_success(response.status_code):
            return _read_events(response, ends_at, handle, stall, api.max_answer_bytes, assembly)
        return api.read_whole(response, ends_at, handle)

    result = abort_failure(handle) or api.exchange(request, ends_at, handle, read)
    return api.report(result, handle, model)


def _read_events(
    response: httpx.Response, ends_at: float, handle: CallHandle, stall: float, limit: int, assembly: StreamAssembly
) -> ExchangeResult:
    stream = StreamBody(limit, assembly)
    fault = None
    is_broken = True
    try:
        for _ in map(stream.take, response.iter_bytes()):  # unlike a loop, `map` holds no chunk while it waits
            if disconnect_if_late(ends_at, handle):
                fault = deadline_exceeded()
            handle.set_idle_timeout(stream.max_wait(stall))
        is_broken = fault is not None
    except EventTooLarge:
        fault = too_large(limit)
    except httpx.ReadTimeout:
        fault = deadline_exceeded()
    except TRANSPORT_ERRORS:
        pass  # events received before the connection broke count
    handle.set_idle_timeout(None)
    body = stream.end(is_broken=is_broken or handle.aborted is not None)
    if body is None and fault is None:
        fault = Failure(ErrorKind.INTERRUPTED, "The provider's stream ended before its last event.")
    fault = None if assembly.is_answered else fault
    return ExchangeResult(response.status_code, response.headers, body or b"", fault, assembly.raw)
