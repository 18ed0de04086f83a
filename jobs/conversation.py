"""A conversation as input items: what earlier turns were asked and answered, then what this one asks.

The provider stores nothing, so each turn of a chain is sent with everything before it. Nothing here knows where the
turns come from.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Item = dict[str, Any]

_NEED_NO_ID: Final = frozenset({"message", "function_call", "custom_tool_call"})


@dataclass(frozen=True)
class Turn:
    """One response of a chain: what it was asked, what it answered, and sealed what the former shows as `***`."""

    response_id: str
    input: Any
    output: Sequence[Mapping[str, Any]] = ()
    credentials: str | None = None


def rebuild(
    turns: Iterable[Turn], input_: Any, is_taken: Callable[[Mapping[str, Any]], bool] = lambda _item: True
) -> list[Item]:
    """Every item of the `turns`, oldest first, then those of `input_`; of the answers those that `is_taken`."""
    items: list[Item] = []
    for turn in turns:
        items += as_items(turn.input)
        items += filter(is_taken, replayed(_without_orphaned_ids(turn.output)))
    return items + as_items(input_)


def as_items(input_: Any) -> list[Item]:
    """A request's input as the items that it stands for: a text is one message, and an empty one is none."""
    if isinstance(input_, str):
        return [user_message(input_)] if input_ else []
    return [dict(item) for item in input_ or ()]


def kind_of(item: Mapping[str, Any]) -> str | None:
    """The type of an input item, which messages and references may leave out; None where nothing tells it."""
    kind = item.get("type")
    if kind is not None:
        return kind if isinstance(kind, str) else None
    if "role" in item or "content" in item:
        return "message"
    return "item_reference" if "id" in item else None


def user_message(text: str) -> Item:
    """What a text as input means."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def replayed(output: Iterable[Mapping[str, Any]]) -> list[Item]:
    """The items of an answer that the next turn is given, of whatever type they are.

    Reasoning goes on only where it is encrypted into the item: by its id alone nobody could look it up.
    """
    return [dict(item) for item in output if isinstance(item.get("type"), str) and not _is_lost_reasoning(item)]


def _is_lost_reasoning(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "reasoning" and not item.get("encrypted_content")


def _without_orphaned_ids(output: Iterable[Mapping[str, Any]]) -> Iterator[Item]:
    """`output` less the ids of what followed reasoning that does not go on.

    OpenAI refuses an item that it knows to belong to reasoning: "was provided without its required 'reasoning' item".
    """
    is_orphan = False
    for item in output:
        if item.get("type") == "reasoning":
            is_orphan = _is_lost_reasoning(item)
        drops_id = is_orphan and item.get("type") in _NEED_NO_ID
        yield {name: value for name, value in item.items() if name != "id" or not drops_id}
