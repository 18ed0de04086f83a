"""Server-sent events out of bytes that may be cut anywhere.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_MARK: Final = b"\xef\xbb\xbf"
_BEGINNINGS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


def begins_as_events(body: bytes) -> bool | None:
    """Whether a body is a stream of events, told by its first bytes; None while they are too few to tell."""
    start = body.removeprefix(_MARK).lstrip()[: len("retry:")]
    if start.startswith(_BEGINNINGS):
        return True
    return None if any(each.startswith(start) for each in _BEGINNINGS) else False


class EventTooLarge(ValueError):
    """One event alone is larger than the limit."""


@dataclass(frozen=True)
class Event:
    """One event; `name` is empty where the stream names none."""

    name: str
    data: bytes


class EventParser:
    """Takes a stream piece by piece and holds no more of it than the event that is under way."""

    def __init__(self, limit: int) -> None:
        """No event may be larger than `limit` bytes."""
        self._limit = limit
        self._size = 0
        self._rest: list[bytes] = []
        self._data: list[bytes] = []
        self._name = ""
        self._after_return = False
        self._begun = False

    @property
    def is_amid_event(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._rest or self._data)

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that end within `chunk`.

        Raises:
            EventTooLarge: the event under way is beyond the limit.
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

    def end(self) -> Event | None:
        """What had come of the last event when the stream ended, be it whole or not."""
        if self._rest:
            self._take_line(self._line())
        return self._dispatch()

    def _line(self) -> bytes:
        line = b"".join(self._rest)
        self._rest.clear()
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_MARK)
        return line

    def _take_line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        if not self._data:
            self._size = 0  # comments keep a line alive for hours, and are no part of an event
        return None

    def _dispatch(self) -> Event | None:
        name, self._name = self._name, ""
        data, self._data = self._data, []
        self._size = 0
        return Event(name, b"\n".join(data)) if data else None
