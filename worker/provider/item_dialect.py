"""Input items in a form that both dialects accept: without nulls, and without a status or id that a provider refuses.

An item's id matters in one case alone: after the reasoning that led to it, where it shows that the two belong together.
OpenAI refuses an item whose id it knows and whose reasoning is missing: "was provided without its required 'reasoning'
item". So an id is sent after its reasoning and nowhere else. Types that must have an id are given a made one. OpenAI
accepts ids of at most 64 letters, digits, underscores and dashes that begin with the prefix of the type, each once per
request.

Everything here is deterministic: a repeated attempt sends the same bytes.
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
"""Types whose `id` OpenAI's schema requires."""
_STATUSES: Final = ("in_progress", "completed", "incomplete")
_OF_THREE_STATUSES: Final = frozenset(
    {"message", "reasoning", "function_call", "function_call_output", "computer_call"}
)
_ANSWER_BY_ID: Final = "local_shell_call_output"
"""An output whose `id` is that of its call."""
_AS_IT_IS: Final = frozenset({"item_reference"})
# Fields with a client's own JSON, in which a null may have a meaning.
_CLIENTS_JSON: Final = frozenset({"parameters", "input_schema", "output_schema", "schema", "arguments", "attributes"})


def fit_items(items: list[Any]) -> list[Any]:
    """Return the items of a request in this form. The given list and its items are not changed."""
    fitter = _ItemFitter()
    return [fitter.item(each, place) if isinstance(each, dict) else each for place, each in enumerate(items)]


def fit_call_id(call_id: str) -> str:
    """Return the id by which a call and its output refer to each other: the given one, or a hash of it if it is too
    long.
    """
    return call_id if 0 < len(call_id) <= LONGEST_ID else f"call_{_digest(call_id)}"


def made_id(prefix: str, place: int) -> str:
    """Return an id for an item without one: unique, and the same at each attempt and in each later turn."""
    return f"{prefix}_{_digest(f'{prefix} {place}')}"


class _ItemFitter:
    """One pass over a conversation, from its first item to its last."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._behind_reasoning = False
        self._approvals: dict[str, str] = {}
        """Ids with which approval requests are sent, by their own ids."""

    def item(self, given: Item, place: int) -> Item:
        kind = kind_of(given) or ""
        if kind in _AS_IT_IS:
            return given
        item = _without_nulls(given) if _is_known(kind) else dict(given)
        if kind in _OF_THREE_STATUSES and item.get("status", "completed") not in _STATUSES:
            item["status"] = "incomplete"
        if isinstance(item.get("call_id"), str):
            item["call_id"] = fit_call_id(item["call_id"])
        own = item.get("approval_request_id")
        if isinstance(own, str):
            item["approval_request_id"] = self._approvals.get(own, own)
        if kind == _ANSWER_BY_ID:
            call_id = item.get("id")
            item["id"] = fit_call_id(call_id if isinstance(call_id, str) else "")
            return item
        return self._with_id(item, kind, given.get("id"), place)

    def _with_id(self, item: Item, kind: str, own: Any, place: int) -> Item:
        fits = isinstance(own, str) and _FIT.fullmatch(own) is not None
        if not _is_known(kind):  # the purpose of its ids is unknown
            return item if fits or not isinstance(own, str) else _without_id(item)
        fits = fits and own not in self._taken and own.startswith(_PREFIXES.get(kind, ""))
        if kind == "reasoning":
            self._behind_reasoning = fits
        elif not is_of_the_model(item):
            self._behind_reasoning = False
        has_only_an_id = kind == "image_generation_call" and not item.get("result")
        if fits and (self._behind_reasoning or has_only_an_id):
            self._taken.add(own)
            return item
        item = _without_id(item)
        if kind in _MUST_HAVE_ONE:
            item["id"] = made_id(_PREFIXES[kind], place)
            if kind == "mcp_approval_request" and isinstance(own, str):
                self._approvals[own] = item["id"]
        return item


def _without_id(item: Item) -> Item:
    return {name: value for name, value in item.items() if name != "id"}


def _is_known(kind: str) -> bool:
    return kind in _PREFIXES or kind == "mcp_approval_response" or kind.endswith("_output")


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:48]


def _without_nulls(value: Any) -> Any:
    """Return `value` without null fields, which mean the same as absent ones. SDKs write them when they replay
    items.
    """
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if each is not None}
        return {name: each if name in _CLIENTS_JSON else _without_nulls(each) for name, each in kept.items()}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value
