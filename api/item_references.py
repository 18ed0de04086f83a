"""Replacing item references in an input by the items: those of the same API key's responses, with their reasoning.

The AI SDK refers to earlier output instead of sending it again, and clients send reasoning back without the encrypted
content that they did not ask for. The provider stores nothing, so both are filled in before the job is submitted. The
job's row then has its whole input, even if the earlier response is deleted.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection

from jobs.conversation import Item, as_items, kind_of, replayed
from jobs.errors import JobNotFound, RequestInvalid
from jobs.store.conversations import chain_ids, output_of
from jobs.store.output_items import ItemHolder, find_items
from jobs.store.responses import get_request, get_response_document

_LISTED: Final = re.compile(r"[a-z]+_([0-9a-f]{32})(o?)([0-9a-f]{4,})_*")
"""Ids that `api.input_items` gives to items without one: response, `o` for output, index."""
_CONTENT: Final[Mapping[str, str]] = {"reasoning": "encrypted_content", "image_generation_call": "result"}
"""Items that may be sent by id without their content, and the field of that content."""


@dataclass(frozen=True)
class Resolved:
    """An input without references, and the ids of its items that the API key's own responses have."""

    input: Sequence[Any]
    held: Collection[str] = field(default_factory=frozenset)


def names_items(input_: Any) -> bool:
    """Return whether an input refers to items that have to be looked up."""
    return isinstance(input_, list) and any(_names_one(item) for item in input_)


def resolve(
    tx: Connection, input_: Sequence[Any], api_key_id: str, previous_response_id: str | None = None
) -> Resolved:
    """Replace references in `input_` by their items. Leave out items of the chain before `previous_response_id`.

    Raises:
        RequestInvalid: none of the key's responses has a referenced item; the message names it.
    """
    named = {item["id"] for item in input_ if _names_one(item)}
    held = find_items(tx, api_key_id, named)
    chain = chain_ids(tx, previous_response_id, api_key_id) if previous_response_id is not None else set[str]()
    placed: set[str] = set()
    items: list[Any] = []
    for index, item in enumerate(input_):
        if not isinstance(item, dict) or not _names_one(item):
            items.append(item)
        elif kind_of(item) != "item_reference":
            items.append(_filled(item, held.get(item["id"])))
        else:
            holder = held.get(item["id"])
            if holder is None:
                items.append(_listed(tx, item["id"], api_key_id, index))
            elif holder.response_id not in chain:
                items += _with_its_reasoning(item["id"], holder, placed)
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            placed.add(item["id"])
    return Resolved(items, held.keys())


def _names_one(item: Any) -> bool:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return False
    kind = kind_of(item)
    content = _CONTENT.get(kind or "")
    return kind == "item_reference" or (content is not None and not item.get(content))


def _filled(item: Item, holder: ItemHolder | None) -> Item:
    whole = None if holder is None else next(each for each in holder.output if each.get("id") == item["id"])
    return item if whole is None or whole.get("type") != item["type"] else dict(whole)


def _with_its_reasoning(item_id: str, holder: ItemHolder, placed: set[str]) -> Iterator[Item]:
    """Yield the reasoning that led to the item and the item itself, each unless it was added before."""
    reasoning: list[Mapping[str, Any]] = []
    follows_others = False
    for item in holder.output:
        if item.get("id") == item_id:
            break
        if item.get("type") != "reasoning":
            follows_others = True
        elif follows_others:
            reasoning, follows_others = [item], False
        else:
            reasoning.append(item)
    for each in (*reasoning, item):
        own = each.get("id")
        if own not in placed:
            yield dict(each)
        if isinstance(own, str):
            placed.add(own)


def _listed(tx: Connection, item_id: str, api_key_id: str, index: int) -> Item:
    found = _LISTED.fullmatch(item_id)
    if found is not None:
        digits, is_answered, number = found.groups()
        try:
            document = get_response_document(tx, f"resp_{digits}", api_key_id)
            if is_answered:
                return replayed(output_of(document.answer))[int(number, 16)]
            return as_items(get_request(tx, document.job.id)[1])[int(number, 16)]
        except (JobNotFound, IndexError):
            pass
    raise RequestInvalid(
        f"Item with id '{item_id[:64]}' not found: no response of this API key has it, or it has been erased. Send"
        " the item itself.",
        f"input[{index}].id",
        "item_not_found",
    )
