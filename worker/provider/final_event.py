"""The items of the last event, paired and merged with those that earlier events made.

Either may hold what the other lacks, and they disagree about ids and places. In the result each item stands once, as it
was emitted, in the order in which it was made.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker.provider.output import Item, brings_output
from worker.provider.stream_item import AssembledItem

_IDS: Final = ("id", "call_id")
_TEXTS: Final = ("arguments", "input", "code")
_SAME_TEXT, _COMPATIBLE_TEXT, _SAME_ID, _SAME_PLACE = 8, 4, 2, 1


def pair_items(
    final: Sequence[Item], assembled: Sequence[AssembledItem], finished: str
) -> list[tuple[Item | None, AssembledItem | None]]:
    """Return each item of the last event with its counterpart, in order; None for a missing one.

    `final` must be normalised. Items match by type, and by text, place or id, whatever else differs.
    """
    built = [each.done or each.built(finished) for each in assembled]
    shared = _shared_ids(assembled)
    scores = sorted(
        (
            (-score, place, index)
            for place, item in enumerate(final)
            for index, made in enumerate(built)
            if item.get("type") == made["type"] and (score := _score(item, made, assembled[index], place, shared))
        )
    )
    counterparts: dict[int, int] = {}
    for _, place, index in scores:
        if place not in counterparts and index not in counterparts.values():
            counterparts[place] = index
    return _in_order(final, assembled, counterparts)


def _in_order(
    final: Sequence[Item], assembled: Sequence[AssembledItem], counterparts: Mapping[int, int]
) -> list[tuple[Item | None, AssembledItem | None]]:
    left = [index for index in range(len(assembled)) if index not in counterparts.values()]
    found: list[tuple[Item | None, AssembledItem | None]] = []
    for place, item in enumerate(final):
        index = counterparts.get(place)
        while index is not None and left and left[0] < index:
            found.append((None, assembled[left.pop(0)]))
        found.append((item, None if index is None else assembled[index]))
    return [*found, *((None, assembled[index]) for index in left)]


def merge(item: Item, made: AssembledItem, finished: str) -> Item:
    """Return an item of the last event with the ids and texts that were emitted of it."""
    whole = made.done
    if whole is None:
        return made.completed({**item, **ids_of(made.given)}, finished)
    result = {**whole, **item, **ids_of(whole)}
    if text_of(item) != text_of(whole) and _has_output(whole):
        for name in ("content", "summary", *_TEXTS):
            if name in whole:
                result[name] = whole[name]
    return result


def ids_of(item: Mapping[str, Any]) -> Item:
    """Return the fields by which clients identify an item."""
    return {name: item[name] for name in _IDS if item.get(name)}


def _score(item: Item, made: Item, assembled: AssembledItem, place: int, shared: set[str]) -> int:
    text, made_text = text_of(item), text_of(made)
    name = item.get("call_id") or item.get("id")
    score = 0
    if text == made_text:
        score = _SAME_TEXT
    elif not made_text or not text or (assembled.done is None and text.startswith(made_text)):
        score = _COMPATIBLE_TEXT
    if isinstance(name, str) and name not in shared and name in assembled.ids:
        score += _SAME_ID
    return score + (_SAME_PLACE if assembled.place == place else 0)


def _shared_ids(assembled: Sequence[AssembledItem]) -> set[str]:
    """Return ids that the provider gave to more than one item, which identify none."""
    seen: set[str] = set()
    shared: set[str] = set()
    for each in assembled:
        shared |= seen & each.ids
        seen |= each.ids
    return shared


def text_of(item: Mapping[str, Any]) -> str:
    """Return all texts of an item, joined."""
    parts = [each for group in ("summary", "content") for each in item.get(group) or () if isinstance(each, Mapping)]
    texts = [each.get("text") or each.get("refusal") for each in parts] + [item.get(name) for name in _TEXTS]
    return "\0".join(each for each in texts if isinstance(each, str) and each)


def _has_output(item: Item) -> bool:
    return bool(text_of(item)) or brings_output([item])
