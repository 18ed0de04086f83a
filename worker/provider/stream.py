"""An answer awaited as server-sent events, which keep the line alive; of all events only the last is kept.

Whoever wants to hear the others is told each as it comes.

When silence is a fault: never while the model may be thinking, for a reasoning model does so for minutes between
events. Only amid an event or a text must more follow soon, and after the last event the stream's end.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx

from jobs.errors import ErrorKind, Failure
from jobs.job import CallReport
from jobs.models import Model
from worker.provider.breakage import BREAKS
from worker.provider.exchange import (
    Endpoint,
    Received,
    ended_here,
    is_late,
    is_success,
    overdue,
    too_large,
)
from worker.provider.line import Line
from worker.provider.sse import Event, EventParser, EventTooLarge

EVENT_STREAM: Final = "text/event-stream"
END_SECONDS: Final = 2.0
"""How long after the last event the stream may take to end; a chunk of its own may name the cost."""
_LAST: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})


class Ending:
    """What a stream's last event says, and the cost that may come beside or after it."""

    __slots__ = ("_meta", "_response", "amid_text", "raw")

    def __init__(self) -> None:
        self._response: Any = None
        self._meta: Any = None
        self.raw: bytes | None = None
        self.amid_text = False

    def take(self, event: Event) -> None:
        """Look at one event. One that is not JSON says nothing."""
        if event.name.startswith("response.") and event.name not in _LAST:
            self.amid_text = event.name.endswith(".delta")
            return
        try:
            value = json.loads(event.data)
        except (ValueError, RecursionError):
            return
        if not isinstance(value, dict):
            return
        if isinstance(value.get("meta"), dict):
            self._meta = value["meta"]
        kind = str(value.get("type") or event.name)
        if kind in _LAST:
            self._response, self.raw = value.get("response"), event.data
        elif self.raw is None and (kind == "error" or (not kind and value.get("error"))):
            self._response, self.raw = _failed(value), event.data
        elif kind:
            self.amid_text = kind.endswith(".delta")

    def body(self) -> bytes:
        """The response object as a call without a stream would have brought it; empty when none came."""
        response = self._response
        if isinstance(response, dict) and self._meta is not None and not response.get("meta"):
            response = {**response, "meta": self._meta}
        return b"" if response is None else json.dumps(response, separators=(",", ":")).encode()


def call_stream(
    endpoint: Endpoint,
    request: httpx.Request,
    model: Model,
    ends_at: float,
    line: Line,
    *,
    stall: float,
    heard: Callable[[bytes], None] | None = None,
) -> CallReport:
    """Send one request and read its events to the last; `stall` is how long a text may stand still.

    `heard` is told each event's data as it comes, and must not raise.
    """

    def read(response: httpx.Response, ends_at: float, line: Line) -> Received:
        content_type = response.headers.get("content-type", "").lower()
        if is_success(response.status_code) and content_type.startswith(EVENT_STREAM):
            return _read_events(response, ends_at, line, stall, endpoint.max_answer_bytes, heard)
        return endpoint.read_whole(response, ends_at, line)

    came = ended_here(line) or endpoint.exchange(request, ends_at, line, read)
    return endpoint.report(came, line, model)


def _read_events(
    response: httpx.Response,
    ends_at: float,
    line: Line,
    stall: float,
    limit: int,
    heard: Callable[[bytes], None] | None,
) -> Received:
    parser, ending = EventParser(limit), Ending()
    fault = Failure(ErrorKind.INTERRUPTED, "The provider's stream ended before its last event.")

    def hear(chunk: bytes) -> None:
        for event in parser.feed(chunk):
            ending.take(event)
            if heard is not None:
                heard(event.data)

    try:
        for _ in map(hear, response.iter_bytes()):  # which, unlike a loop, holds no chunk while the next is awaited
            if is_late(ends_at, line):
                fault = overdue()
            line.expect(_patience(parser, ending, stall))
    except EventTooLarge:
        fault = too_large(limit)
    except httpx.ReadTimeout:
        fault = overdue()
    except BREAKS:
        pass  # what had come before the line broke counts
    line.expect(None)
    unfinished = parser.end()
    if unfinished is not None:
        ending.take(unfinished)
    return Received(
        response.status_code,
        response.headers,
        ending.body(),
        None if ending.raw is not None else fault,
        ending.raw,
    )


def _patience(parser: EventParser, ending: Ending, stall: float) -> float | None:
    if ending.raw is not None:
        return END_SECONDS
    return stall if ending.amid_text or parser.is_amid_event else None


def _failed(event: Mapping[str, Any]) -> dict[str, Any]:
    """A stream's `error` event as the failed response that it stands for."""
    error = event.get("error") or {name: event.get(name) for name in ("code", "message", "param")}
    return {"object": "response", "status": "failed", "error": error}
