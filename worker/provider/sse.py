"""A parser for server-sent events from bytes that may be split anywhere.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_BEGINNINGS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


def begins_as_events(body: bytes) -> bool | None:
    """Return whether a body is a stream of events, check_report by its first bytes; None if there are too few."""
    start = body.removeprefix(_BYTE_ORDER_MARK).lstrip()[: len("retry:")]
    if start.startswith(_BEGINNINGS):
        return True
    return None if any(each.startswith(start) for each in _BEGINNINGS) else False


class EventTooLarge(ValueError):
    """An event exceeds the size limit."""


@dataclass(frozen=True)
class ServerSentEvent:
    """One event. `name` is empty if the stream gives none."""

    name: str
    data: bytes


class EventParser:
    """Parses a stream piece by piece, holding only the event that is incomplete."""

    def __init__(self, limit: int) -> None:
        """Limit each event to `limit` bytes."""
        self._limit = limit
        self._size = 0
        self._rest: list[bytes] = []
        self._data: list[bytes] = []
        self._name = ""
        self._after_return = False
        self._begun = False

    @property
    def is_amid_event(self) -> bool:
        """True if an event has begun and not ended."""
        return bool(self._rest or self._data)

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """Yield the events that end within `chunk`.

        Raises:
            EventTooLarge: an event exceeds the limit.
        """
        if self._after_return and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_return = False
        if chunk:
            self._after_return = chunk.endswith(b"\r")
        for piece in chunk.splitlines(keepends=True):
            self._size += len(piece)
            if self._size > self._limit:
                raise EventTooLarge
            line = piece.rstrip(b"\r\n")
            self._rest.append(line)
            if len(line) < len(piece):
                event = self._take_line(self._line())
                if event is not None:
                    yield event

    def end(self) -> ServerSentEvent | None:
        """Return the last event as far as it was received when the stream ended; None if there is none."""
        if self._rest:
            self._take_line(self._line())
        return self._dispatch()

    def _line(self) -> bytes:
        line = b"".join(self._rest)
        self._rest.clear()
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BYTE_ORDER_MARK)
        return line

    def _take_line(self, line: bytes) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        if not self._data:
            self._size = 0  # comments keep a connection alive for hours, and are no part of an event
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        name, self._name = self._name, ""
        data, self._data = self._data, []
        self._size = 0
        return ServerSentEvent(name, b"\n".join(data)) if data else None
