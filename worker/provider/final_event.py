"""The items of a last event brought together with those that the events before it made.

Both may be right where the other is silent, and they disagree about ids and places. Each item stands in the result
once, as it was told, in the order in which it was made.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker.provider.output import Item, brings_output
from worker.provider.stream_item import AssembledItem

_NAMES: Final = ("id", "call_id")
_TEXTS: Final = ("arguments", "input", "code")
_ALIKE, _MORE, _SAME_NAME, _SAME_PLACE = 8, 4, 2, 1


def pairs(
    final: Sequence[Item], assembled: Sequence[AssembledItem], finished: str
) -> list[tuple[Item | None, AssembledItem | None]]:
    """Each item with its counterpart, in order; None where it has none.

    `final` is in shape. Items belong together by type, and by text, place or id: whatever else of them differs.
    """
    built = [each.done or each.built(finished) for each in assembled]
    shared = _shared_ids(assembled)
    scores = sorted(
        (
            (-score, place, index)
            for place, item in enumerate(final)
            for index, made in enumerate(built)
            if item.get("type") == made["type"] and (score := _score(item, made, assembled[index], place, shared))
        ),
    )
    counterparts: dict[int, int] = {}
    for _, place, index in scores:
        if place not in counterparts and index not in counterparts.values():
            counterparts[place] = index
    return _merged(final, assembled, counterparts)


def _merged(
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


def merged(item: Item, made: AssembledItem, finished: str) -> Item:
    """An item of the last event under the name and with the texts that were told of it."""
    whole = made.done
    if whole is None:
        return made.completed({**item, **names_of(made.given)}, finished)
    result = {**whole, **item, **names_of(whole)}
    if said(item) != said(whole) and _speaks(whole):
        for name in ("content", "summary", *_TEXTS):
            if name in whole:
                result[name] = whole[name]
    return result


def names_of(item: Mapping[str, Any]) -> Item:
    """The fields by which clients tell an item apart."""
    return {name: item[name] for name in _NAMES if item.get(name)}


def _score(item: Item, made: Item, assembled: AssembledItem, place: int, shared: set[str]) -> int:
    words, made_words = said(item), said(made)
    name = item.get("call_id") or item.get("id")
    score = 0
    if words == made_words:
        score = _ALIKE
    elif not made_words or not words or (assembled.done is None and words.startswith(made_words)):
        score = _MORE
    if isinstance(name, str) and name not in shared and name in assembled.ids:
        score += _SAME_NAME
    return score + (_SAME_PLACE if assembled.place == place else 0)


def _shared_ids(assembled: Sequence[AssembledItem]) -> set[str]:
    """Ids that more than one item was given: they tell nothing."""
    seen: set[str] = set()
    shared: set[str] = set()
    for each in assembled:
        shared |= seen & each.ids
        seen |= each.ids
    return shared


def said(item: Mapping[str, Any]) -> str:
    """All texts of an item, in one."""
    parts = [each for group in ("summary", "content") for each in item.get(group) or () if isinstance(each, Mapping)]
    texts = [each.get("text") or each.get("refusal") for each in parts] + [item.get(name) for name in _TEXTS]
    return "\0".join(each for each in texts if isinstance(each, str) and each)


def _speaks(item: Item) -> bool:
    return bool(said(item)) or brings_output([item])
