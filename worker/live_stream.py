"""Live output: the events of an answer while it is made, brought into the response's sequence.

They go on behind those of earlier attempts. Whatever live output leaves out is told when the answer is here, so a
stream may fall silent at any point (a database that is away, a log that grows beyond all measure) and still ends well.
"""

import json
from collections.abc import Iterable, Sequence
from threading import Event as Signal
from threading import Lock, Thread
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from jobs.event_stream import (
    LIVE_FROM,
    EmittedItem,
    Event,
    Progress,
    closing_events,
    identity_of,
)
from jobs.job import Attempt
from jobs.notifications import Notifier
from jobs.request_fields import without_reasoning
from jobs.store.database import Database
from jobs.store.stream_events import Chunk, append, last_chunk
from jobs.telemetry import get_logger

FLUSH_SECONDS: Final = 0.2
"""How often events are committed. One transaction holds those of all streams of this process."""
FLUSH_AGAIN_SECONDS: Final = 2.0
MISSES: Final = 10
"""How many flushes in a row may leave an attempt's events out before it is taken for one that lost its job."""
MOST_UNWRITTEN: Final = 4 * 1024 * 1024
MOST_WRITTEN: Final = 32 * 1024 * 1024

_SMALL_EVENT: Final = 256
"""About what an event weighs besides its text."""

log = get_logger(__name__)


class LiveOutput:
    """What one attempt has told, and what of it is not committed yet."""

    def __init__(self, attempt: Attempt, last: Chunk | None, written: Signal, *, shows_reasoning: bool = False) -> None:
        """`last` is the end of what earlier attempts told; `written` is set whenever there is more to commit.

        Encrypted reasoning is told where the client asked for it: `shows_reasoning`.
        """
        self.attempt = attempt
        self._shows_reasoning = shows_reasoning
        self._progress = Progress() if last is None else last.progress
        self.emitted: Final = frozenset[str]().union(*(each.identity for each in self._progress.items))
        """The identities of what earlier attempts told."""
        self._number = LIVE_FROM if last is None else last.next_number
        self._written = written
        self._places: dict[int, int] = {}  # the attempt's output_index: the response's
        self._unwritten: list[Event] = []
        self._unwritten_size = 0
        self._size = 0
        self._silent = False
        self._misses = 0
        self._guard = Lock()

    def record(self, on_events: Sequence[Event]) -> None:
        """Take the next canonical events of an answer, all or none of them.

        Never raises: what is watched must not cost what was paid for.
        """
        if self._silent:
            return
        try:
            size = sum(map(_size_of, on_events))
            self._size += size
            self._unwritten_size += size
            self._silent = self._size > MOST_WRITTEN or self._unwritten_size > MOST_UNWRITTEN
            if self._silent:
                return
            with self._guard:
                events = [each for event in on_events for each in self._events(event)]
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
        """What is to be committed next."""
        with self._guard:
            if not self._unwritten:
                return None
            progress = Progress.from_json(self._progress.to_json())
            return Chunk(self.attempt.job_id, self.attempt.number, self._number, list(self._unwritten), progress)

    def confirm(self, chunk: Chunk) -> None:
        """It is committed."""
        with self._guard:
            del self._unwritten[: len(chunk.events)]
            self._number = chunk.next_number
            self._unwritten_size = 0
            self._misses = 0

    def miss(self) -> bool:
        """It could not be committed: somebody moves the job just now, or it is no longer ours. Whether to try again."""
        with self._guard:
            self._misses += 1
            self._silent = self._silent or self._misses >= MISSES
            if self._misses >= MISSES:
                self._unwritten.clear()
            return bool(self._unwritten)

    def _events(self, event: Event) -> list[Event]:
        place = event["output_index"]
        if event["type"] == "response.output_item.added":
            return self._added(place, event)
        index = self._places.get(place)
        if index is None:
            return []
        if event["type"] == "response.output_item.done":
            self._progress.items[index].opened = None
        return [{**event, "output_index": index}]

    def _added(self, place: int, event: Event) -> list[Event]:
        item = event["item"]
        identity = identity_of(item)
        if not identity or self._progress.has_emitted(item):
            return []
        events = [] if self._places else closing_events(self._progress)  # what a lost attempt left open
        index = self._places[place] = len(self._progress.items)
        self._progress.items.append(EmittedItem(identity, item))
        return [*events, {**event, "output_index": index}]


def _without_reasoning(event: Event) -> Event:
    return {**event, "item": without_reasoning([event["item"]])[0]} if "item" in event else event


def _size_of(event: Event) -> int:
    """About how many bytes an event has; most are small, and are not written out to find it."""
    words = event.get("delta")
    return _SMALL_EVENT + (len(words) if isinstance(words, str) else len(json.dumps(event)))


def keep_rest(tx: Connection, outputs: Iterable[LiveOutput]) -> None:
    """Put what each has told and not committed yet beside its answer."""
    chunks = [chunk for output in outputs if (chunk := output.unwritten()) is not None]
    if chunks:
        append(tx, chunks, wait=True)


class LiveLog:
    """The live output of every streamed response that this process has in its hands."""

    def __init__(self, database: Database, notifier: Notifier) -> None:
        self._database = database
        self._notifier = notifier
        self._outputs: dict[tuple[str, int], LiveOutput] = {}
        self._written = Signal()
        self._flushing = Lock()
        self._stopping = False
        self._thread = Thread(target=self._loop, daemon=True)

    def start(self) -> None:
        """Begin to commit what is told."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping = True
        self._written.set()

    def open(self, attempt: Attempt, *, shows_reasoning: bool = False) -> LiveOutput:
        """The beginning of an attempt, told to those who watch; it goes on where an earlier one stopped."""
        last = self._last(attempt.job_id) if attempt.number > 1 else None
        output = LiveOutput(attempt, last, self._written, shows_reasoning=shows_reasoning)
        self._outputs[attempt.job_id, attempt.number] = output
        self._notifier.wrote(attempt.job_id)
        return output

    def _last(self, job_id: str) -> Chunk | None:
        with self._database.read() as tx:
            return last_chunk(tx, job_id)

    def close(self, attempt: Attempt) -> LiveOutput | None:
        """Commit no more for an attempt; None where it had no live output."""
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
                log.warning("live output is not written", error=type(error).__name__)
                again, seconds = True, FLUSH_AGAIN_SECONDS
            pause.wait(seconds)
            if again:
                self._written.set()

    def flush(self) -> bool:
        """Commit all that was told and tell those who watch; whether something had to be left for later."""
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
