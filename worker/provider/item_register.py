"""The items of a stream, found by what an event says about its item, however unreliable that is."""

from collections.abc import Mapping
from typing import Any, Final

from worker.provider.stream_item import AssembledItem

CALLS: Final = frozenset({"function_call", "custom_tool_call"})
"""Types of items that may be made in parallel."""


class ItemRegister:
    """All items of one stream, in the order in which they began."""

    def __init__(self) -> None:
        self.items: list[AssembledItem] = []
        self._by_place: dict[int, list[AssembledItem]] = {}
        self._by_id: dict[str, list[AssembledItem]] = {}

    def add(self, item: AssembledItem, given: Mapping[str, Any]) -> None:
        """Add an item with the ids that the provider gives it in `given`."""
        self.items.append(item)
        if item.place is not None:
            self._by_place.setdefault(item.place, []).append(item)
        self.remember(item, given)

    def remember(self, item: AssembledItem, given: Mapping[str, Any]) -> None:
        """Remember the provider's ids of an item."""
        for each in (given.get("id"), given.get("call_id")):
            if isinstance(each, str) and each and each not in item.ids:
                item.ids.add(each)
                self._by_id.setdefault(each, []).append(item)

    def find(self, kind: str, value: Mapping[str, Any], name: object) -> AssembledItem | None:
        """Return the item that an event is about: by id and place, else by the one that identifies a single item.

        Without either, it is the item that is in progress.
        """
        place = place_of(value)
        named = [each for each in self._by_id.get(name, ()) if each.kind == kind] if isinstance(name, str) else []
        there = [each for each in self._by_place.get(place, ()) if each.kind == kind] if place is not None else []
        both = [each for each in there if each in named]
        found = both or (named if len(named) == 1 else there or named)
        if found:
            return _in_progress(found)
        if kind in CALLS and (place is not None or name):
            return None  # calls may be made in parallel: this is another one
        return next((each for each in reversed(self.items) if each.kind == kind and each.done is None), None)


def place_of(value: Mapping[str, Any]) -> int | None:
    """Return the `output_index` of an event; None if it is missing or invalid."""
    place = value.get("output_index")
    return place if isinstance(place, int) and not isinstance(place, bool) and place >= 0 else None


def _in_progress(items: list[AssembledItem]) -> AssembledItem:
    return next((each for each in reversed(items) if each.done is None), items[-1])
