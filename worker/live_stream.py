"""Live output: the events of an answer while it is being made, as part of the response's event sequence.

They follow the events of earlier attempts. Events that live output leaves out are emitted when the answer is complete.
So a stream may stop at any point, because the database is away or the log grows too large, and still ends correctly.
"""

import json
from collections.abc import Iterable, Sequence
from threading import Event as Signal
from threading import Lock, Thread
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from jobs.event_stream import LIVE_FROM, EmittedItem, Event, Progress, closing_events, identity_of
from jobs.job import Attempt
from jobs.notifications import Notifier
from jobs.request_fields import without_reasoning
from jobs.store.database import Database
from jobs.store.stream_events import Chunk, append, last_chunk
from jobs.telemetry import get_logger

FLUSH_SECONDS: Final = 0.2
"""Seconds between commits of events. One transaction writes those of all streams of this process."""
FLUSH_AGAIN_SECONDS: Final = 2.0
MISSES: Final = 10
"""Flushes in a row that may skip an attempt's events before the attempt counts as having lost its job."""
MOST_UNWRITTEN: Final = 4 * 1024 * 1024
MOST_WRITTEN: Final = 32 * 1024 * 1024

_SMALL_EVENT: Final = 256
"""About the size of an event besides its text, in bytes."""

log = get_logger(__name__)


class LiveOutput:
    """The events of one attempt that are emitted, and those of them that are not committed yet."""

    def __init__(self, attempt: Attempt, last: Chunk | None, written: Signal, *, shows_reasoning: bool = False) -> None:
        """Create it. `last` is the end of what earlier attempts emitted. `written` is set when there is more to commit.

        Encrypted reasoning is emitted if the client asked for it: `shows_reasoning`.
        """
        self.attempt = attempt
        self._shows_reasoning = shows_reasoning
        self._progress = Progress() if last is None else last.progress
        self.emitted: Final = frozenset[str]().union(*(each.identity for each in self._progress.items))
        """The identities of the items that earlier attempts emitted."""
        self._number = LIVE_FROM if last is None else last.next_number
        self._written = written
        self._indices: dict[int, int] = {}  # from the attempt's output_index to the response's
        self._unwritten: list[Event] = []
        self._unwritten_size = 0
        self._size = 0
        self._silent = False
        self._misses = 0
        self._guard = Lock()

    def record(self, received: Sequence[Event]) -> None:
        """Take the next canonical events of an answer, all or none of them.

        Never raises: live output must not lose an answer that is billed.
        """
        if self._silent:
            return
        try:
            size = sum(map(_size_of, received))
            self._size += size
            self._unwritten_size += size
            self._silent = self._size > MOST_WRITTEN or self._unwritten_size > MOST_UNWRITTEN
            if self._silent:
                return
            with self._guard:
                events = [each for event in received for each in self._events(event)]
                if not self._shows_reasoning:
                    events = [_without_reasoning(event) for event in events]
                self._unwritten += events
        except Exception as error:  # noqa: BLE001  # see above
            self._silent = True
            log.warning("live output ended", job_id=self.attempt.job_id, error=type(error).__name__)
            return
        if events:
            self._written.set()

    def unwritten(self) -> Chunk | None:
        """Return what is to be committed next."""
        with self._guard:
            if not self._unwritten:
                return None
            progress = Progress.from_json(self._progress.to_json())
            return Chunk(self.attempt.job_id, self.attempt.number, self._number, list(self._unwritten), progress)

    def confirm(self, chunk: Chunk) -> None:
        """Note that a chunk is committed."""
        with self._guard:
            del self._unwritten[: len(chunk.events)]
            self._number = chunk.next_number
            self._unwritten_size = 0
            self._misses = 0

    def miss(self) -> bool:
        """Note that a chunk could not be committed: the job is being moved, or is lost. Return whether to try again."""
        with self._guard:
            self._misses += 1
            self._silent = self._silent or self._misses >= MISSES
            if self._misses >= MISSES:
                self._unwritten.clear()
            return bool(self._unwritten)

    def _events(self, event: Event) -> list[Event]:
        own_index = event["output_index"]
        if event["type"] == "response.output_item.added":
            return self._added(own_index, event)
        index = self._indices.get(own_index)
        if index is None:
            return []
        if event["type"] == "response.output_item.done":
            self._progress.items[index].opened = None
        return [{**event, "output_index": index}]

    def _added(self, own_index: int, event: Event) -> list[Event]:
        item = event["item"]
        identity = identity_of(item)
        if not identity or self._progress.has_emitted(item):
            return []
        events = [] if self._indices else closing_events(self._progress)  # closes what a lost attempt left open
        index = self._indices[own_index] = len(self._progress.items)
        self._progress.items.append(EmittedItem(identity, item))
        return [*events, {**event, "output_index": index}]


def _without_reasoning(event: Event) -> Event:
    return {**event, "item": without_reasoning([event["item"]])[0]} if "item" in event else event


def _size_of(event: Event) -> int:
    """Return about how many bytes an event has. Most are small, and need not be encoded for that."""
    text = event.get("delta")
    return _SMALL_EVENT + (len(text) if isinstance(text, str) else len(json.dumps(event)))


def keep_rest(tx: Connection, outputs: Iterable[LiveOutput]) -> None:
    """Write the emitted but uncommitted events together with the answer."""
    chunks = [chunk for output in outputs if (chunk := output.unwritten()) is not None]
    if chunks:
        append(tx, chunks, wait=True)


class LiveLog:
    """The live output of all streamed responses that this process runs."""

    def __init__(self, database: Database, notifier: Notifier) -> None:
        self._database = database
        self._notifier = notifier
        self._outputs: dict[tuple[str, int], LiveOutput] = {}
        self._written = Signal()
        self._flushing = Lock()
        self._stopping = False
        self._thread = Thread(target=self._loop, daemon=True)

    def start(self) -> None:
        """Begin to commit events."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping = True
        self._written.set()

    def open(self, attempt: Attempt, *, shows_reasoning: bool = False) -> LiveOutput:
        """Begin the output of an attempt, after that of earlier ones, and notify clients that watch the response."""
        last = self._last(attempt.job_id) if attempt.number > 1 else None
        output = LiveOutput(attempt, last, self._written, shows_reasoning=shows_reasoning)
        self._outputs[attempt.job_id, attempt.number] = output
        self._notifier.wrote(attempt.job_id)
        return output

    def _last(self, job_id: str) -> Chunk | None:
        with self._database.read() as tx:
            return last_chunk(tx, job_id)

    def close(self, attempt: Attempt) -> LiveOutput | None:
        """Commit no more for an attempt. Return its output. None if it had no live output."""
        with self._flushing:
            return self._outputs.pop((attempt.job_id, attempt.number), None)

    def _loop(self) -> None:
        pause = Signal()
        while not self._stopping:
            self._written.wait()
            self._written.clear()
            try:
                again, seconds = self.flush(), FLUSH_SECONDS
            except SQLAlchemyError as error:
                log.warning("live output not written", error=type(error).__name__)
                again, seconds = True, FLUSH_AGAIN_SECONDS
            pause.wait(seconds)
            if again:
                self._written.set()

    def flush(self) -> bool:
        """Commit all emitted events and notify clients. Return whether some have to be committed later."""
        with self._flushing:
            found = [(output, chunk) for output in self._outputs.values() if (chunk := output.unwritten()) is not None]
            if not found:
                return False
            with self._database.begin() as tx:
                kept = append(tx, [chunk for _, chunk in found])
            again = False
            for output, chunk in found:
                if chunk.job_id in kept:
                    output.confirm(chunk)
                elif output.miss():
                    again = True
        self._notifier.wrote(*kept)
        return again
