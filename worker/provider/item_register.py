"""The items of a stream, found by what an event says of its own, however little that can be trusted."""

from collections.abc import Mapping
from typing import Any, Final

from worker.provider.stream_item import AssembledItem

CALLS: Final = frozenset({"function_call", "custom_tool_call"})
"""Items that are made side by side."""


class ItemRegister:
    """Every item of one stream, in the order in which they began."""

    def __init__(self) -> None:
        self.items: list[AssembledItem] = []
        self._by_place: dict[int, list[AssembledItem]] = {}
        self._by_id: dict[str, list[AssembledItem]] = {}

    def add(self, item: AssembledItem, given: Mapping[str, Any]) -> None:
        """Enter an item that the provider calls as `given` does."""
        self.items.append(item)
        if item.place is not None:
            self._by_place.setdefault(item.place, []).append(item)
        self.remember(item, given)

    def remember(self, item: AssembledItem, given: Mapping[str, Any]) -> None:
        """Note by which ids the provider calls an item."""
        for each in (given.get("id"), given.get("call_id")):
            if isinstance(each, str) and each and each not in item.ids:
                item.ids.add(each)
                self._by_id.setdefault(each, []).append(item)

    def find(self, kind: str, value: Mapping[str, Any], name: object) -> AssembledItem | None:
        """The item that an event is about: by id and place, else by the one that points at a single item.

        Without either it is the one that is under way.
        """
        place = place_of(value)
        named = [each for each in self._by_id.get(name, ()) if each.kind == kind] if isinstance(name, str) else []
        there = [each for each in self._by_place.get(place, ()) if each.kind == kind] if place is not None else []
        both = [each for each in there if each in named]
        found = both or (named if len(named) == 1 else there or named)
        if found:
            return _under_way(found)
        if kind in CALLS and (place is not None or name):
            return None  # calls are made side by side
        return next((each for each in reversed(self.items) if each.kind == kind and each.done is None), None)


def place_of(value: Mapping[str, Any]) -> int | None:
    """The `output_index` of an event, where it is one."""
    place = value.get("output_index")
    return place if isinstance(place, int) and not isinstance(place, bool) and place >= 0 else None


def _under_way(items: list[AssembledItem]) -> AssembledItem:
    return next((each for each in reversed(items) if each.done is None), items[-1])
