"""Live output: what a streaming provider says of an answer while it is made, brought into the response's sequence.

Of a provider's events those are passed on that every SDK knows and that fit what was told before; the rest is left
out, for whatever live output leaves out is told when the answer is here. So a stream may fall silent at any point
(a gateway that sends nonsense, a database that is away, a log that grows beyond all measure) and still ends well.
"""

from collections.abc import Iterable, Mapping
from threading import Event as Signal
from threading import Lock, Thread
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from jobs.events import Announcer
from jobs.fields import without_reasoning
from jobs.job import Attempt
from jobs.sequence import (
    LIVE_FROM,
    OUTPUT_TYPES,
    Event,
    Item,
    Progress,
    Told,
    closing_events,
    identity_of,
    is_for_the_client_to_run,
    opened,
)
from jobs.store.database import Database
from jobs.store.streams import Chunk, append, last_chunk
from jobs.telemetry import get_logger
from worker.provider.output import normalise_output
from worker.provider.wire import parse_json

FLUSH_SECONDS: Final = 0.2
"""How often events are committed. One transaction holds those of all streams of this process."""
FLUSH_AGAIN_SECONDS: Final = 2.0
MISSES: Final = 10
"""How many flushes in a row may leave an attempt's events out before it is taken for one that lost its job."""
MOST_UNWRITTEN: Final = 4 * 1024 * 1024
MOST_WRITTEN: Final = 32 * 1024 * 1024

_NOT_PASSED_ON: Final = frozenset({"sequence_number", "obfuscation", "response"})
_PART_OF: Final[Mapping[str, str]] = {
    "response.output_text": "output_text",
    "response.output_text.annotation": "output_text",
    "response.refusal": "refusal",
    "response.reasoning_text": "reasoning_text",
}
_ITEM_OF: Final[Mapping[str, str]] = {
    "response.reasoning_summary_part": "reasoning",
    "response.reasoning_summary_text": "reasoning",
    "response.function_call_arguments": "function_call",
    "response.custom_tool_call_input": "custom_tool_call",
    "response.mcp_call_arguments": "mcp_call",
    "response.code_interpreter_call_code": "code_interpreter_call",
}
"""Where the family of an event is not named for the part or item that it belongs to."""

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
        self._number = LIVE_FROM if last is None else last.next_number
        self._written = written
        self._places: dict[int, int] = {}  # the provider's output_index: ours
        self._calls: dict[int, list[Mapping[str, Any]]] = {}  # events of calls that are not whole yet
        self._has_begun = False
        self._unwritten: list[Event] = []
        self._unwritten_size = 0
        self._size = 0
        self._silent = False
        self._misses = 0
        self._guard = Lock()

    def hear(self, data: bytes) -> None:
        """Take one of the provider's events. Never raises: what is watched must not cost what was paid for."""
        if self._silent:
            return
        try:
            value = parse_json(data)
            with self._guard:
                events = self._events(value) if isinstance(value, dict) else []
                if not self._shows_reasoning:
                    events = [_without_reasoning(event) for event in events]
                self._unwritten += events
        except (ValueError, RecursionError):  # not JSON: it says nothing
            return
        except Exception as error:  # noqa: BLE001  # see above
            self._silent = True
            log.warning("live output ended", job_id=self.attempt.job_id, error=type(error).__name__)
            return
        self._size += len(data)
        self._unwritten_size += len(data) if events or self._calls else 0
        self._silent = self._size > MOST_WRITTEN or self._unwritten_size > MOST_UNWRITTEN
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

    def _events(self, value: Mapping[str, Any]) -> list[Event]:
        kind, place = value.get("type"), value.get("output_index")
        if not isinstance(kind, str) or kind not in OUTPUT_TYPES or not isinstance(place, int):
            return []
        # Some clients run a tool as soon as its call is done, so a call that a lost attempt left half made is withheld.
        held = self._calls.get(place)
        if kind == "response.output_item.added":
            if held and _identity(held[0]) == _identity(value):
                return []  # said twice
            self._calls.pop(place, None)
            held = self._calls.setdefault(place, []) if is_for_the_client_to_run(value.get("item")) else None
        if held is None:
            return self._fitting(kind, place, value)
        held.append(value)
        if kind != "response.output_item.done":
            return []
        del self._calls[place]
        if _identity(held[0]) != _identity(value):
            return []  # the answer has it, under whichever name
        return [event for each in held for event in self._fitting(each["type"], place, each)]

    def _fitting(self, kind: str, place: int, value: Mapping[str, Any]) -> list[Event]:
        if kind == "response.output_item.added":
            return self._added(place, value.get("item"))
        index = self._places.get(place)
        told = None if index is None else self._progress.items[index]
        if index is None or told is None or told.opened is None:
            return []
        if kind == "response.output_item.done":
            return _done(told, told.opened, index, value.get("item"))
        return _within(told, told.opened, index, kind, value)

    def _added(self, place: int, item: object) -> list[Event]:
        identity = identity_of(item) if isinstance(item, dict) else frozenset()
        earlier = self._places.get(place)
        if earlier is not None and self._progress.items[earlier].identity == identity:  # said twice
            return []
        self._places.pop(place, None)
        if not isinstance(item, dict) or not identity or self._progress.has_told(item):
            return []
        events = [] if self._has_begun else closing_events(self._progress)  # what a lost attempt left open
        self._has_begun = True
        begun = opened({"role": "assistant", "status": "in_progress", **item} if item["type"] == "message" else item)
        index = self._places[place] = len(self._progress.items)
        self._progress.items.append(Told(identity, begun))
        return [*events, {"type": "response.output_item.added", "output_index": index, "item": begun}]


def _without_reasoning(event: Event) -> Event:
    return {**event, "item": without_reasoning([event["item"]])[0]} if "item" in event else event


def _identity(event: Mapping[str, Any]) -> frozenset[str]:
    item = event.get("item")
    return identity_of(item) if isinstance(item, dict) else frozenset()


def _done(told: Told, begun: Item, index: int, item: object) -> list[Event]:
    if not isinstance(item, dict) or identity_of(item) != told.identity or item["type"] != begun["type"]:
        return []
    told.opened = None
    [whole] = normalise_output([item], None, finished="completed", seed=str)
    return [{"type": "response.output_item.done", "output_index": index, "item": whole}]


def _within(told: Told, item: Mapping[str, Any], index: int, kind: str, value: Mapping[str, Any]) -> list[Event]:
    """An event between an item's first and last, if it fits; and the beginning of its part, should that be missing."""
    if not item.get("id") or (kind.endswith(".delta") and not isinstance(value.get("delta"), str)):
        return []
    place = {"item_id": item["id"], "output_index": index}
    event = {**{name: each for name, each in value.items() if name not in _NOT_PASSED_ON}, **place}
    family = kind.rpartition(".")[0]
    if family == "response.content_part" or family in _PART_OF:
        return _in_content(told, str(item["type"]), kind, family, event)
    if item["type"] != _ITEM_OF.get(family, family.removeprefix("response.")):
        return []
    if item["type"] == "reasoning":
        is_new = kind == "response.reasoning_summary_part.added"
        if event.get("summary_index") not in ([told.summaries] if is_new else range(told.summaries)):
            return []
        told.summaries += is_new
    return [event]


def _in_content(told: Told, item_type: str, kind: str, family: str, event: Event) -> list[Event]:
    part, content_index = event.get("part"), event.get("content_index")
    part_type = _PART_OF.get(family) or (part.get("type") if isinstance(part, dict) else None)
    fits = item_type == ("reasoning" if part_type == "reasoning_text" else "message")
    if not fits or not isinstance(part_type, str) or not isinstance(content_index, int):
        return []
    if family == "response.output_text":
        event["logprobs"] = event.get("logprobs") or []
    if content_index == len(told.parts) and (isinstance(part, dict) or kind.endswith(".delta")):
        told.parts.append(part_type)
        begun = _begun_part(part_type, part if isinstance(part, dict) else {})
        added = {"type": "response.content_part.added", "content_index": content_index, "part": begun}
        added |= {name: event[name] for name in ("item_id", "output_index")}
        return [added] if kind == added["type"] else [added, event]
    known = 0 <= content_index < len(told.parts) and told.parts[content_index] == part_type
    return [event] if known and kind != "response.content_part.added" else []


def _begun_part(part_type: str, part: Mapping[str, Any]) -> Event:
    match part_type:
        case "output_text":
            return {**part, "type": part_type, "text": "", "annotations": [], "logprobs": []}
        case "refusal":
            return {**part, "type": part_type, "refusal": ""}
        case "reasoning_text":
            return {**part, "type": part_type, "text": ""}
        case _:
            return {**part, "type": part_type}


def keep_rest(tx: Connection, outputs: Iterable[LiveOutput]) -> None:
    """Put what each has told and not committed yet beside its answer."""
    chunks = [chunk for output in outputs if (chunk := output.unwritten()) is not None]
    if chunks:
        append(tx, chunks, wait=True)


class LiveLog:
    """The live output of every streamed response that this process has in its hands."""

    def __init__(self, database: Database, announcer: Announcer) -> None:
        self._database = database
        self._announcer = announcer
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
        self._announcer.wrote(attempt.job_id)
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
        for job_id in kept:
            self._announcer.wrote(job_id)
        return again
