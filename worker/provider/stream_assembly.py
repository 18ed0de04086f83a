"""An answer put together from the events of a stream, in whatever state they are.

Ids and indices contradict each other, events are missing, doubled or out of order, and the last one is empty, broken
or has another name: what arrived counts (DESIGN, section 5). Out of the provider's events come, as they arrive,
canonical ones for whoever watches (one id and place for each item, each text once); and at the end a response object
whose `output` holds the same items under the same ids. Nothing else is kept of an event than what it adds.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

from jobs.encoding import read_json
from jobs.event_stream import OUTPUT_TYPES, Event, OnEvents
from worker.provider.event_order import EventOrder
from worker.provider.final_event import merged, names_of, pairs, said
from worker.provider.item_ids import ItemIds
from worker.provider.item_register import CALLS, ItemRegister, place_of
from worker.provider.output import Item, as_text, brings_output, normalise_items
from worker.provider.sse import Event as Frame
from worker.provider.sse import EventParser, EventTooLarge
from worker.provider.stream_item import AssembledItem, Part

_STATUS_OF: Final[Mapping[str, str | None]] = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
    "response.done": None,
}
"""Last events, and what they say of a response that does not say it itself."""
_ENDED: Final = frozenset({"completed", "incomplete", "failed", "cancelled"})
_BEGUN: Final = frozenset({"response.created", "response.queued", "response.in_progress"})
_FACTS: Final = ("id", "object", "created_at", "model", "status")
_TEXT_PARTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "response.output_text": ("message", "output_text", "content_index"),
    "response.refusal": ("message", "refusal", "content_index"),
    "response.reasoning_text": ("reasoning", "reasoning_text", "content_index"),
    "response.reasoning_summary_text": ("reasoning", "summary_text", "summary_index"),
}
"""Families of events about a part's text: the type of its item, its own type, and the field of its index."""
_SAID: Final[Mapping[str, tuple[str, str]]] = {
    "response.function_call_arguments": ("function_call", "arguments"),
    "response.custom_tool_call_input": ("custom_tool_call", "input"),
    "response.mcp_call_arguments": ("mcp_call", "arguments"),
    "response.code_interpreter_call_code": ("code_interpreter_call", "code"),
}


class StreamAssembly:
    """What the events of one attempt make, as far as they came."""

    def __init__(self, *, limit: int, record: OnEvents | None = None, emitted: Collection[str] = ()) -> None:
        """Make an answer of at most `limit` bytes; `hear` is told the canonical events, and must not raise.

        `told` are the identities of items that earlier attempts told of: no item of this one gets the same.
        """
        self.is_amid_text = False
        self.raw: bytes | None = None
        """The last event as it was sent; None while none came."""
        self._limit = limit
        self._size = 0
        self._hear = record
        self._order = EventOrder()
        self._word = ""
        self._names = ItemIds(self._seed, emitted)
        self._register = ItemRegister()
        self._items = self._register.items
        self._last: tuple[tuple[object, ...], AssembledItem, Part] | None = None
        self._begun: Item = {}
        self._meta: Any = None
        self._kind = ""
        self._response: Item | None = None
        self._is_said_done = False

    @property
    def has_ended(self) -> bool:
        """Whether the last event has come."""
        return self.raw is not None

    @property
    def is_answered(self) -> bool:
        """Once it is closed: whether there is a response, be it one that failed. Else the stream was interrupted."""
        return self._response is not None

    @property
    def begun(self) -> Item | None:
        """What the provider said of the response when it began; None where nothing says that it did."""
        return self._begun if self._begun or self._items else None

    def take(self, frame: Frame) -> None:
        """Take one event. One that says nothing is left out.

        Raises:
            EventTooLarge: the answer is beyond the limit.
        """
        if frame.data.strip() == b"[DONE]":
            self._is_said_done = True
            return
        try:
            value = read_json(frame.data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            if frame.name in _STATUS_OF:
                self._end(frame.name, None, frame.data)
            return
        if isinstance(value.get("meta"), dict):
            self._meta = value["meta"]
        kind = value.get("type")
        kind = kind if isinstance(kind, str) and kind else frame.name
        if not self._take_last(kind, value, frame.data) and kind:
            self.is_amid_text = kind.endswith(".delta")
            if kind.startswith("response.output_item."):
                self._grow(len(frame.data))
            value["type"] = kind
            self._apply_all(self._order.take(value, frame.data))

    def _take_last(self, kind: str, value: Item, data: bytes) -> bool:
        """Take the event that ends a stream; False if this is none."""
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

    def close(self, *, is_broken: bool) -> None:
        """No more will come; `is_broken` says that the connection broke. What is left to tell of the answer is told."""
        self._apply_all(self._order.flush())
        if self._response is not None:
            self._response = self._finished(self._response)
        elif self.raw is not None or self._is_said_done or not is_broken:
            self._end_unannounced(is_broken=is_broken)

    def body(self) -> bytes:
        """The response object as a call without a stream would have brought it; empty when none came."""
        if self._response is None:
            return b""
        return json.dumps(self._response, separators=(",", ":")).encode()

    def _end(self, kind: str, response: object, raw: bytes) -> None:
        self._apply_all(self._order.flush())
        if self._response is not None and self._kind != "error":
            return  # told twice
        self._kind, self.raw = kind, raw
        self._response = response if isinstance(response, dict) else None

    def _end_unannounced(self, *, is_broken: bool) -> None:
        """Keep what arrived whole without a response object that says so."""
        status = _STATUS_OF.get(self._kind) or "completed"
        if status in ("failed", "cancelled"):
            self._response = self._finished({"status": status})
            return
        are_whole = all(each.done is not None or (self._is_said_done and each.is_whole) for each in self._items)
        if (self.raw is None or is_broken) and not are_whole:
            return
        if brings_output(each.done or each.built(status) for each in self._items if _is_kept(each)):
            self._response = self._finished({"status": status})

    def _finished(self, response: Item) -> Item:
        """`response` with the items that it and the events before it made."""
        status = response.get("status")
        if status not in _ENDED:
            status = _STATUS_OF.get(self._kind)
        finished = "incomplete" if status == "incomplete" else "completed"
        given = normalise_items(response.get("output"), response.get("output_text"), finished=finished)
        kept = [each for each in pairs(given, self._items, finished) if each[0] or (each[1] and _is_kept(each[1]))]
        output: list[Item] = [{} for _ in kept]
        for place, (item, made) in enumerate(kept):
            if made is not None:
                whole = merged(item, made, finished) if item else made.done or made.built(finished)
                output[place] = whole if made.done else self._named(made, whole)
                if status not in ("failed", "cancelled"):
                    self._tell(made.end(output[place]))
        for place, (item, made) in enumerate(kept):  # last, for what was told has the first claim to its name
            if item and made is None:
                output[place] = self._names.give(item, place)
        whole = {**self._begun, **{name: each for name, each in response.items() if each is not None}}
        whole |= {"status": status, "output": output}
        if self._meta is not None and not whole.get("meta"):
            whole["meta"] = self._meta
        return whole

    def _apply_all(self, values: Iterable[Mapping[str, Any]]) -> None:
        for each in values:
            self._apply(each)

    def _apply(self, value: Mapping[str, Any]) -> None:
        kind = value["type"]
        family, _, verb = kind.rpartition(".")
        if verb != "delta":
            self._last = None
        if kind in _BEGUN:
            given = value.get("response")
            if isinstance(given, dict):
                self._begun = {name: given[name] for name in _FACTS if given.get(name) is not None}
        elif kind == "response.output_item.added":
            self._added(value)
        elif kind == "response.output_item.done":
            self._done(value)
        elif family in _TEXT_PARTS:
            self._in_part(value, *_TEXT_PARTS[family], verb)
        elif family in ("response.content_part", "response.reasoning_summary_part"):
            self._part(value, verb, is_summary=family.endswith("summary_part"))
        elif family in _SAID:
            self._said(value, *_SAID[family], verb)
        elif kind == "response.output_text.annotation.added":
            self._annotated(value)
        elif kind in OUTPUT_TYPES:
            item = self._register.find(family.removeprefix("response."), value, value.get("item_id"))
            if item is not None and item.done is None:
                self._tell(item.pass_on(value))

    def _added(self, value: Mapping[str, Any]) -> None:
        given = value.get("item")
        if not isinstance(given, dict):
            return
        [given] = normalise_items([given], None, finished="in_progress") or [{}]
        kind = given.get("type")
        if not isinstance(kind, str):
            return
        name = given.get("id") or given.get("call_id")
        known = self._register.find(kind, value, name)
        if known is not None and known.is_implied and known.done is None:
            known.is_implied = False
            known.given = {**given, **known.given} if known.is_told else given
            self._register.remember(known, given)
        elif known is None or not self._is_same(known, value, given):
            self._new(given, value, is_implied=False)

    def _is_same(self, known: AssembledItem, value: Mapping[str, Any], given: Item) -> bool:
        """Whether an item that is added was added before: under the same id, if any, at the same place, if any."""
        names = {given[name] for name in ("id", "call_id") if isinstance(given.get(name), str) and given[name]}
        place = place_of(value)
        return (not names or names <= known.ids) and (place is None or place == known.place)

    def _done(self, value: Mapping[str, Any]) -> None:
        given = value.get("item")
        if not isinstance(given, dict):
            return
        [whole] = normalise_items([given], None, finished="completed") or [{}]
        kind = whole.get("type")
        if not isinstance(kind, str):
            return
        item = self._register.find(kind, value, whole.get("id") or whole.get("call_id"))
        if item is not None and item.done is not None:
            if said(whole) in ("", said(item.done)):
                return  # told twice
            item = None
        if item is None:
            item = self._new({**whole, "status": "in_progress"} if "status" in whole else whole, value, is_implied=True)
        self._register.remember(item, whole)
        known = {name: each for name, each in whole.items() if each is not None}
        whole = item.completed({**item.given, **known}, "completed")
        self._tell(item.end(self._named(item, whole)))

    def _named(self, item: AssembledItem, whole: Item) -> Item:
        """`whole` under the name that was told, or that is to be told from now on."""
        if item.is_told:
            return {**whole, **names_of(item.given)}
        return self._names.give({**whole, **names_of(item.given)}, item.index, always=True)

    def _in_part(self, value: Mapping[str, Any], kind: str, part_kind: str, index: str, verb: str) -> None:
        place = (part_kind, value.get("item_id"), value.get("output_index"), value.get(index))
        if verb == "delta" and self._last is not None and self._last[0] == place:  # most events of a stream are such
            self._add(self._last[1], self._last[2], value)
            return
        item = self._open(kind, value)
        if item is None or verb not in ("delta", "done"):
            return
        words = _words(value.get("delta" if verb == "delta" else "refusal" if part_kind == "refusal" else "text"))
        if verb == "delta" and not words:
            return
        part, events = item.part(part_kind, value.get(index))
        self._tell(events)
        if part is not None and verb == "delta":
            self._last = (place, item, part)
            self._add(item, part, value)
        elif part is not None:
            self._tell(item.end_text(part, words, value))

    def _add(self, item: AssembledItem, part: Part, value: Mapping[str, Any]) -> None:
        words = _words(value.get("delta"))
        self._grow(len(words))
        if self._hear is not None:
            self._tell(item.add(part, words, value))
        elif not part.is_whole and not part.is_done:
            part.text.add(words)

    def _part(self, value: Mapping[str, Any], verb: str, *, is_summary: bool) -> None:
        given = value.get("part")
        kind = given.get("type") if isinstance(given, dict) else None
        if is_summary:
            kind = "summary_text"
        if not isinstance(given, dict) or not isinstance(kind, str) or is_summary != (kind == "summary_text"):
            return
        kind = "output_text" if kind == "text" else kind
        is_reasoning = is_summary or kind == "reasoning_text"
        item = self._open("reasoning" if is_reasoning else "message", value)
        if item is None:
            return
        index = value.get("summary_index" if is_summary else "content_index")
        part, events = item.part(kind, index, given if verb == "added" else None)
        self._tell(events)
        if part is not None and verb == "done":
            self._tell(item.end_part(part, given))

    def _said(self, value: Mapping[str, Any], kind: str, name: str, verb: str) -> None:
        known = self._register.find(kind, value, value.get("item_id"))
        item = self._open(kind, value) if known or kind in CALLS else None
        if item is None:
            return  # the whole item tells of it, and more than its text is needed to begin one of these
        if verb == "delta":
            words = _words(value.get("delta"))
            self._grow(len(words))
            self._tell(item.say(words))
        elif verb == "done":
            self._tell(item.end_said(as_text(value.get(name)) or ""))

    def _annotated(self, value: Mapping[str, Any]) -> None:
        item = self._open("message", value)
        annotation = value.get("annotation")
        if item is not None and isinstance(annotation, dict):
            part, events = item.part("output_text", value.get("content_index"))
            self._tell(events)
            if part is not None:
                self._tell(item.annotate(part, annotation))

    def _open(self, kind: str, value: Mapping[str, Any]) -> AssembledItem | None:
        """The item that an event adds to; None where it has ended, so that the event came late, or twice."""
        name = value.get("item_id")
        item = self._register.find(kind, value, name)
        if item is None:
            given = {"type": kind, **({"id": name} if isinstance(name, str) and name else {})}
            item = self._new(given, value, is_implied=True)
        return item if item.done is None else None

    def _new(self, given: Item, value: Mapping[str, Any], *, is_implied: bool) -> AssembledItem:
        item = AssembledItem(len(self._items), place_of(value), given, is_implied=is_implied)
        self._register.add(item, given)
        if not item.is_withheld:
            item.given = self._names.give(given, item.index, always=True)
        self._tell(item.begin())
        return item

    def _tell(self, events: Sequence[Event]) -> None:
        if events and self._hear is not None:
            self._hear(events)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._limit:
            raise EventTooLarge

    def _seed(self) -> str:
        """A word for names, made once: the same for the same response, where the provider named it in time."""
        if not self._word:
            own = str(self._begun.get("id") or uuid4().hex)
            self._word = sha256(own.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return self._word


def _is_kept(item: AssembledItem) -> bool:
    """Whether an item is worth keeping that the last event lacks: it arrived whole, or holds a text."""
    if item.done is not None:
        return True
    if item.kind == "function_call" and not item.said_is_whole:
        return bool(item.given.get("name")) and _is_json(item.said.whole())
    if item.kind in CALLS:
        return item.said_is_whole and bool(item.given.get("name"))
    return bool(said(item.built("completed")))


def _is_json(text: str) -> bool:
    try:
        read_json(text)
    except ValueError:
        return False
    return True


def _words(value: object) -> str:
    """A piece of text, which some gateways wrap into an object."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("text", "arguments", "content") if isinstance(value.get(name), str)), "")
    return value if isinstance(value, str) else ""


def _failed(event: Mapping[str, Any]) -> Item:
    """A stream's `error` event as the failed response that it stands for."""
    error = event.get("error") or {name: event.get(name) for name in ("code", "message", "param")}
    return {"object": "response", "status": "failed", "error": error}


def assembled(body: bytes, *, is_broken: bool) -> StreamAssembly:
    """What a whole body of events makes."""
    assembly, parser = StreamAssembly(limit=len(body)), EventParser(len(body) + 1)
    for frame in parser.feed(body):
        assembly.take(frame)
    last = parser.end()
    if last is not None:
        assembly.take(last)
    assembly.close(is_broken=is_broken)
    return assembly
