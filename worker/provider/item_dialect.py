"""Input items in the form that is refused in neither dialect: no nulls, no status or id that a provider stumbles over.

Ids of items are of use in one case alone: where the reasoning that led to an item goes along, they tell that the two
belong together. An item whose id is known at OpenAI, and whose reasoning is missing, is refused: "was provided without
its required 'reasoning' item". So an id is sent behind its reasoning and nowhere else. Kinds that must have one are
given a made one there. What ids OpenAI takes: at most 64 letters, digits, underscores and dashes, beginning with
the prefix of the kind, and none twice.

Everything here is deterministic: an attempt that is repeated sends the same bytes.
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from jobs.conversation import Item, is_of_the_model, kind_of

LONGEST_ID: Final = 64
_FIT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PREFIXES: Final[Mapping[str, str]] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "tool_search_call": "tsc",
    "shell_call": "sh",
    "apply_patch_call": "apc",
    "file_search_call": "fs",
    "web_search_call": "ws",
    "computer_call": "cu",
    "code_interpreter_call": "ci",
    "image_generation_call": "ig",
    "local_shell_call": "lsh",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
}
_MUST_HAVE_ONE: Final = frozenset(
    {
        "file_search_call",
        "web_search_call",
        "computer_call",
        "code_interpreter_call",
        "image_generation_call",
        "local_shell_call",
        "mcp_call",
        "mcp_list_tools",
        "mcp_approval_request",
    }
)
"""Kinds whose `id` OpenAI's schema asks for."""
_STATUSES: Final = ("in_progress", "completed", "incomplete")
_OF_THREE_STATUSES: Final = frozenset(
    {"message", "reasoning", "function_call", "function_call_output", "computer_call"}
)
_ANSWER_BY_ID: Final = "local_shell_call_output"
"""Its `id` is the call's own."""
_AS_IT_IS: Final = frozenset({"item_reference"})
# A client's own JSON, in which a null may mean something.
_OWN: Final = frozenset({"parameters", "input_schema", "output_schema", "schema", "arguments", "attributes"})


def fitted(items: list[Any]) -> list[Any]:
    """Bring the items of a request into this form. The list and the items in it stay as they are."""
    fitting = _Fitting()
    return [fitting.item(each, place) if isinstance(each, dict) else each for place, each in enumerate(items)]


def fitting_call_id(call_id: str) -> str:
    """The id by which a call and its output find each other: the given one, or a shorter one that stands for it."""
    return call_id if 0 < len(call_id) <= LONGEST_ID else f"call_{_digest(call_id)}"


def made_id(prefix: str, place: int) -> str:
    """An id for an item without one: no other item's, and the same at each attempt and in each later turn."""
    return f"{prefix}_{_digest(f'{prefix} {place}')}"


class _Fitting:
    """One pass over a conversation, from its first item to its last."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._behind_reasoning = False
        self._approvals: dict[str, str] = {}
        """The ids under which requests for approval are sent, by their own."""

    def item(self, given: Item, place: int) -> Item:
        kind = kind_of(given) or ""
        if kind in _AS_IT_IS:
            return given
        item = _emitted(given) if _is_known(kind) else dict(given)
        if kind in _OF_THREE_STATUSES and item.get("status", "completed") not in _STATUSES:
            item["status"] = "incomplete"
        if isinstance(item.get("call_id"), str):
            item["call_id"] = fitting_call_id(item["call_id"])
        own = item.get("approval_request_id")
        if isinstance(own, str):
            item["approval_request_id"] = self._approvals.get(own, own)
        if kind == _ANSWER_BY_ID:
            call_id = item.get("id")
            item["id"] = fitting_call_id(call_id if isinstance(call_id, str) else "")
            return item
        return self._named(item, kind, given.get("id"), place)

    def _named(self, item: Item, kind: str, own: Any, place: int) -> Item:
        fits = isinstance(own, str) and _FIT.fullmatch(own) is not None
        if not _is_known(kind):  # what its ids are for is not known here
            return item if fits or not isinstance(own, str) else _nameless(item)
        fits = fits and own not in self._taken and own.startswith(_PREFIXES.get(kind, ""))
        if kind == "reasoning":
            self._behind_reasoning = fits
        elif not is_of_the_model(item):
            self._behind_reasoning = False
        is_all_it_says = kind == "image_generation_call" and not item.get("result")
        if fits and (self._behind_reasoning or is_all_it_says):
            self._taken.add(own)
            return item
        item = _nameless(item)
        if kind in _MUST_HAVE_ONE:
            item["id"] = made_id(_PREFIXES[kind], place)
            if kind == "mcp_approval_request" and isinstance(own, str):
                self._approvals[own] = item["id"]
        return item


def _nameless(item: Item) -> Item:
    return {name: value for name, value in item.items() if name != "id"}


def _is_known(kind: str) -> bool:
    return kind in _PREFIXES or kind == "mcp_approval_response" or kind.endswith("_output")


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:48]


def _emitted(value: Any) -> Any:
    """`value` less the fields that are null, which say no more than their absence; SDKs write them when they replay."""
    if isinstance(value, dict):
        return {name: each if name in _OWN else _emitted(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_emitted(each) for each in value]
    return value
