"""The output items of one stream, built from its events and emitted again as canonical events."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from jobs.event_stream import OUTPUT_TYPES, Event, OnEvents
from worker.provider.final_event import ids_of, text_of
from worker.provider.item_ids import ItemIds
from worker.provider.item_register import CALLS, ItemRegister, place_of
from worker.provider.output import Item, as_text, normalise_items
from worker.provider.sse import EventTooLarge
from worker.provider.stream_item import ITEM_TEXTS, AssembledItem, Part

_PART_FAMILIES: Final[Mapping[str, tuple[str, str, str]]] = {
    "response.output_text": ("message", "output_text", "content_index"),
    "response.refusal": ("message", "refusal", "content_index"),
    "response.reasoning_text": ("reasoning", "reasoning_text", "content_index"),
    "response.reasoning_summary_text": ("reasoning", "summary_text", "summary_index"),
}
"""Families of events about a part's text: the type of its item, its own type, and the field of its index."""
_ITEM_FAMILIES: Final[Mapping[str, tuple[str, str]]] = {
    family: (kind, field) for kind, (field, family) in ITEM_TEXTS.items()
}
"""Families of events about an item's own text: the type of the item, and the field of its text."""


class ItemBuilder:
    """Builds items from events whose ids and indices may be missing, repeated or wrong."""

    def __init__(self, ids: ItemIds, *, limit: int, on_events: OnEvents | None) -> None:
        """Build items of at most `limit` bytes. Call `on_events`, which must not raise, with canonical events."""
        self._ids = ids
        self._limit = limit
        self._size = 0
        self._on_events = on_events
        self._register = ItemRegister()
        self._last: tuple[tuple[object, ...], AssembledItem, Part] | None = None
        self.items = self._register.items

    def apply(self, value: Mapping[str, Any]) -> None:
        """Apply one event to the item that it is about.

        Raises:
            EventTooLarge: the answer exceeds the limit.
        """
        kind = value["type"]
        family, _, verb = kind.rpartition(".")
        if verb != "delta":
            self._last = None
        if kind == "response.output_item.added":
            self._add_item(value)
        elif kind == "response.output_item.done":
            self._end_item(value)
        elif family in _PART_FAMILIES:
            self._apply_part_text(value, *_PART_FAMILIES[family], verb)
        elif family in ("response.content_part", "response.reasoning_summary_part"):
            self._apply_part(value, verb, is_summary=family.endswith("summary_part"))
        elif family in _ITEM_FAMILIES:
            self._apply_item_text(value, *_ITEM_FAMILIES[family], verb)
        elif kind == "response.output_text.annotation.added":
            self._annotate(value)
        elif kind in OUTPUT_TYPES:
            item = self._register.find(family.removeprefix("response."), value, value.get("item_id"))
            if item is not None and item.done is None:
                self.emit(item.forward(value))

    def grow(self, size: int) -> None:
        """Count `size` bytes more.

        Raises:
            EventTooLarge: the answer exceeds the limit.
        """
        self._size += size
        if self._size > self._limit:
            raise EventTooLarge

    def emit(self, events: Sequence[Event]) -> None:
        """Emit canonical events."""
        if events and self._on_events is not None:
            self._on_events(events)

    def with_ids(self, item: AssembledItem, whole: Item) -> Item:
        """Return `whole` with the ids of `item` in the events: those emitted, or new ones if none was emitted yet."""
        if item.is_emitted:
            return {**whole, **ids_of(item.given)}
        return self._ids.assign({**whole, **ids_of(item.given)}, item.index, always=True)

    def _add_item(self, value: Mapping[str, Any]) -> None:
        given = value.get("item")
        if not isinstance(given, dict):
            return
        [given] = normalise_items([given], None, finished="in_progress") or [{}]
        kind = given.get("type")
        if not isinstance(kind, str):
            return
        known = self._register.find(kind, value, given.get("id") or given.get("call_id"))
        if known is not None and known.is_implied and known.done is None:
            known.is_implied = False
            known.given = {**given, **known.given} if known.is_emitted else given
            self._register.remember(known, given)
        elif known is None or not _is_same(known, value, given):
            self._begin_item(given, value, is_implied=False)

    def _end_item(self, value: Mapping[str, Any]) -> None:
        given = value.get("item")
        if not isinstance(given, dict):
            return
        [whole] = normalise_items([given], None, finished="completed") or [{}]
        kind = whole.get("type")
        if not isinstance(kind, str):
            return
        item = self._register.find(kind, value, whole.get("id") or whole.get("call_id"))
        if item is not None and item.done is not None:
            if text_of(whole) in ("", text_of(item.done)):
                return  # a duplicate
            item = None
        if item is None:
            begun = {**whole, "status": "in_progress"} if "status" in whole else whole
            item = self._begin_item(begun, value, is_implied=True)
        self._register.remember(item, whole)
        known = {name: each for name, each in whole.items() if each is not None}
        whole = item.completed({**item.given, **known}, "completed")
        self.emit(item.end(self.with_ids(item, whole)))

    def _apply_part_text(self, value: Mapping[str, Any], kind: str, part_kind: str, index: str, verb: str) -> None:
        place = (part_kind, value.get("item_id"), value.get("output_index"), value.get(index))
        if verb == "delta" and self._last is not None and self._last[0] == place:  # the case of most events
            self._add_part_text(self._last[1], self._last[2], value)
            return
        item = self._open_item(kind, value)
        if item is None or verb not in ("delta", "done"):
            return
        text = _text(value.get("delta" if verb == "delta" else "refusal" if part_kind == "refusal" else "text"))
        if verb == "delta" and not text:
            return
        part, events = item.open_part(part_kind, value.get(index))
        self.emit(events)
        if part is not None and verb == "delta":
            self._last = (place, item, part)
            self._add_part_text(item, part, value)
        elif part is not None:
            self.emit(item.end_part_text(part, text, value))

    def _add_part_text(self, item: AssembledItem, part: Part, value: Mapping[str, Any]) -> None:
        text = _text(value.get("delta"))
        self.grow(len(text))
        if self._on_events is not None:
            self.emit(item.add_part_text(part, text, value))
        elif not part.is_whole and not part.is_done:
            part.text.add(text)

    def _apply_part(self, value: Mapping[str, Any], verb: str, *, is_summary: bool) -> None:
        given = value.get("part")
        kind = given.get("type") if isinstance(given, dict) else None
        if is_summary:
            kind = "summary_text"
        if not isinstance(given, dict) or not isinstance(kind, str) or is_summary != (kind == "summary_text"):
            return
        kind = "output_text" if kind == "text" else kind
        is_reasoning = is_summary or kind == "reasoning_text"
        item = self._open_item("reasoning" if is_reasoning else "message", value)
        if item is None:
            return
        index = value.get("summary_index" if is_summary else "content_index")
        part, events = item.open_part(kind, index, given if verb == "added" else None)
        self.emit(events)
        if part is not None and verb == "done":
            self.emit(item.end_part(part, given))

    def _apply_item_text(self, value: Mapping[str, Any], kind: str, name: str, verb: str) -> None:
        known = self._register.find(kind, value, value.get("item_id"))
        item = self._open_item(kind, value) if known or kind in CALLS else None
        if item is None:
            return  # such an item needs more than its text to begin; its own event brings it whole
        if verb == "delta":
            text = _text(value.get("delta"))
            self.grow(len(text))
            self.emit(item.add_text(text))
        elif verb == "done":
            self.emit(item.end_text(as_text(value.get(name)) or ""))

    def _annotate(self, value: Mapping[str, Any]) -> None:
        item = self._open_item("message", value)
        annotation = value.get("annotation")
        if item is not None and isinstance(annotation, dict):
            part, events = item.open_part("output_text", value.get("content_index"))
            self.emit(events)
            if part is not None:
                self.emit(item.annotate(part, annotation))

    def _open_item(self, kind: str, value: Mapping[str, Any]) -> AssembledItem | None:
        """Return the item that an event adds to; None if it has ended, so that the event is late or a duplicate."""
        name = value.get("item_id")
        item = self._register.find(kind, value, name)
        if item is None:
            given = {"type": kind, **({"id": name} if isinstance(name, str) and name else {})}
            item = self._begin_item(given, value, is_implied=True)
        return item if item.done is None else None

    def _begin_item(self, given: Item, value: Mapping[str, Any], *, is_implied: bool) -> AssembledItem:
        item = AssembledItem(len(self.items), place_of(value), given, is_implied=is_implied)
        self._register.add(item, given)
        if not item.is_withheld:
            item.given = self._ids.assign(given, item.index, always=True)
        self.emit(item.begin())
        return item


def _is_same(known: AssembledItem, value: Mapping[str, Any], given: Item) -> bool:
    """Return whether an added item was added before: with the same ids and the same place, as far as given."""
    names = {given[name] for name in ("id", "call_id") if isinstance(given.get(name), str) and given[name]}
    place = place_of(value)
    return (not names or names <= known.ids) and (place is None or place == known.place)


def _text(value: object) -> str:
    """Return a piece of text, which some gateways wrap in an object."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("text", "arguments", "content") if isinstance(value.get(name), str)), "")
    return value if isinstance(value, str) else ""
