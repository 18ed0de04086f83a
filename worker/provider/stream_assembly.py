"""An answer assembled from the events of a stream, in whatever state they are.

Ids and indices may contradict each other. Events may be missing, duplicated or out of order, and the last one may be
empty, broken or of another type. All that was received counts. The provider's events are emitted as canonical ones
while they are received: one id and place for each item, each text once. At the end there is a response object whose
`output` holds the same items with the same ids. Of an event, only what it adds is kept.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

from jobs.encoding import read_json
from jobs.event_stream import OnEvents
from worker.provider.event_order import EventOrder
from worker.provider.final_event import merge, pair_items, text_of
from worker.provider.item_builder import ItemBuilder
from worker.provider.item_ids import ItemIds
from worker.provider.item_register import CALLS
from worker.provider.output import Item, brings_output, normalise_items
from worker.provider.sse import EventParser, ServerSentEvent
from worker.provider.stream_item import AssembledItem

_STATUS_OF: Final[Mapping[str, str | None]] = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
    "response.done": None,
}
"""Types of last events, with the status of a response object that has none."""
_ENDED: Final = frozenset({"completed", "incomplete", "failed", "cancelled"})
_BEGUN: Final = frozenset({"response.created", "response.queued", "response.in_progress"})
_FACTS: Final = ("id", "object", "created_at", "model", "status")


class StreamAssembly:
    """The answer that the events of one attempt make, as far as they were received."""

    def __init__(self, *, limit: int, on_events: OnEvents | None = None, emitted: Collection[str] = ()) -> None:
        """Assemble an answer of at most `limit` bytes. Call `on_events`, which must not raise, with canonical events.

        `emitted` are the identities of items in earlier attempts' events: no item of this one gets the same.
        """
        self.is_amid_text = False
        self.raw: bytes | None = None
        """The last event as it was received; None until then."""
        self._order = EventOrder()
        self._seed = ""
        self._ids = ItemIds(self._get_seed, emitted)
        self._builder = ItemBuilder(self._ids, limit=limit, on_events=on_events)
        self._items = self._builder.items
        self._begun: Item = {}
        self._meta: Any = None
        self._kind = ""
        self._response: Item | None = None
        self._has_done_line = False

    @property
    def has_ended(self) -> bool:
        """True if the last event was received."""
        return self.raw is not None

    @property
    def is_answered(self) -> bool:
        """True if a closed stream made a response, perhaps a failed one. If false, the stream was interrupted."""
        return self._response is not None

    @property
    def begun(self) -> Item | None:
        """Facts of the response in its first event; None if no event shows that a response began."""
        return self._begun if self._begun or self._items else None

    def take(self, event: ServerSentEvent) -> None:
        """Take one event. An event that cannot be read is ignored.

        Raises:
            EventTooLarge: the answer exceeds the limit.
        """
        if event.data.strip() == b"[DONE]":
            self._has_done_line = True
            return
        try:
            value = read_json(event.data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            if event.name in _STATUS_OF:
                self._end(event.name, None, event.data)
            return
        if isinstance(value.get("meta"), dict):
            self._meta = value["meta"]
        kind = value.get("type")
        kind = kind if isinstance(kind, str) and kind else event.name
        if not self._take_last(kind, value, event.data) and kind:
            self.is_amid_text = kind.endswith(".delta")
            if kind.startswith("response.output_item."):
                self._builder.grow(len(event.data))
            value["type"] = kind
            self._apply_all(self._order.take(value, event.data))

    def close(self, *, is_broken: bool) -> None:
        """End the stream and emit the rest of the answer. `is_broken` is true if the connection broke."""
        self._apply_all(self._order.flush())
        if self._response is not None:
            self._response = self._finished(self._response)
        elif self.raw is not None or self._has_done_line or not is_broken:
            self._end_unannounced(is_broken=is_broken)

    def body(self) -> bytes:
        """Return the response object as a call without a stream would have returned it; empty if there is none."""
        if self._response is None:
            return b""
        return json.dumps(self._response, separators=(",", ":")).encode()

    def _take_last(self, kind: str, value: Item, data: bytes) -> bool:
        """Take an event that ends the stream. Return False if this is another event."""
        if kind in _STATUS_OF:
            self._end(kind, value.get("response"), data)
        elif value.get("object") == "response" and value.get("status") in _ENDED:
            self._end("response.done", value, data)
        elif kind == "error" or (not kind and value.get("error")):
            if self.raw is None:
                self._end("error", _failed(value), data)
        else:
            return False
        return True

    def _end(self, kind: str, response: object, raw: bytes) -> None:
        self._apply_all(self._order.flush())
        if self._response is not None and self._kind != "error":
            return  # a duplicate
        self._kind, self.raw = kind, raw
        self._response = response if isinstance(response, dict) else None

    def _end_unannounced(self, *, is_broken: bool) -> None:
        """Make a response of complete items although no event holds a response object."""
        status = _STATUS_OF.get(self._kind) or "completed"
        if status in ("failed", "cancelled"):
            self._response = self._finished({"status": status})
            return
        are_whole = all(each.done is not None or (self._has_done_line and each.is_whole) for each in self._items)
        if (self.raw is None or is_broken) and not are_whole:
            return
        if brings_output(each.done or each.built(status) for each in self._items if _is_kept(each)):
            self._response = self._finished({"status": status})

    def _finished(self, response: Item) -> Item:
        """Return `response` with its own items and those of the events before it."""
        status = response.get("status")
        if status not in _ENDED:
            status = _STATUS_OF.get(self._kind)
        finished = "incomplete" if status == "incomplete" else "completed"
        given = normalise_items(response.get("output"), response.get("output_text"), finished=finished)
        pairs = pair_items(given, self._items, finished)
        kept = [each for each in pairs if each[0] or (each[1] and _is_kept(each[1]))]
        output: list[Item] = [{} for _ in kept]
        for place, (item, made) in enumerate(kept):
            if made is not None:
                whole = merge(item, made, finished) if item else made.done or made.built(finished)
                output[place] = whole if made.done else self._builder.with_ids(made, whole)
                if status not in ("failed", "cancelled"):
                    self._builder.emit(made.end(output[place]))
        for place, (item, made) in enumerate(kept):  # last, as emitted items take precedence for their ids
            if item and made is None:
                output[place] = self._ids.assign(item, place)
        whole = {**self._begun, **{name: each for name, each in response.items() if each is not None}}
        whole |= {"status": status, "output": output}
        if self._meta is not None and not whole.get("meta"):
            whole["meta"] = self._meta
        return whole

    def _apply_all(self, values: Iterable[Mapping[str, Any]]) -> None:
        for each in values:
            if each["type"] in _BEGUN:
                given = each.get("response")
                if isinstance(given, dict):
                    self._begun = {name: given[name] for name in _FACTS if given.get(name) is not None}
            self._builder.apply(each)

    def _get_seed(self) -> str:
        """Return a word to make ids of, the same for the same response if its id was received in time."""
        if not self._seed:
            own = str(self._begun.get("id") or uuid4().hex)
            self._seed = sha256(own.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return self._seed


def assemble(body: bytes, *, is_broken: bool) -> StreamAssembly:
    """Return the assembly of a whole body of events."""
    assembly, parser = StreamAssembly(limit=len(body)), EventParser(len(body) + 1)
    for event in parser.feed(body):
        assembly.take(event)
    last = parser.end()
    if last is not None:
        assembly.take(last)
    assembly.close(is_broken=is_broken)
    return assembly


def _is_kept(item: AssembledItem) -> bool:
    """Return whether to keep an item that the last event lacks: it is complete, or holds a text."""
    if item.done is not None:
        return True
    if item.kind == "function_call" and not item.has_whole_text:
        return bool(item.given.get("name")) and _is_json(item.text.whole())
    if item.kind in CALLS:
        return item.has_whole_text and bool(item.given.get("name"))
    return bool(text_of(item.built("completed")))


def _is_json(text: str) -> bool:
    try:
        read_json(text)
    except ValueError:
        return False
    return True


def _failed(event: Mapping[str, Any]) -> Item:
    """Return the failed response that a stream's `error` event stands for."""
    error = event.get("error") or {name: event.get(name) for name in ("code", "message", "param")}
    return {"object": "response", "status": "failed", "error": error}
