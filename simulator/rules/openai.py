"""OpenAI's own rules on the items of an input, in its own words: ids, nulls, and reasoning with the items that it led
to.

The words are from bug reports about clients that broke these rules. As with `store: false`, the provider keeps no items
and knows reasoning only by its encrypted content. Issued items are remembered all the same: OpenAI knows for each id
which reasoning the item followed, and for each encrypted content whether it is its own.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from cachetools import LRUCache

from simulator.rules.messages import BodyInvalid

_REMEMBERED: Final = 100_000
_LONGEST: Final = 64
_CHARACTERS: Final = re.compile(r"[A-Za-z0-9_-]+")
_PREFIXES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "message": "msg",
        "reasoning": "rs",
        "function_call": "fc",
        "function_call_output": "fc",
        "custom_tool_call": "ctc",
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
)
_NEED_AN_ID: Final = frozenset(_PREFIXES) - {
    *("message", "reasoning", "function_call", "function_call_output", "custom_tool_call")
}
_ANSWER_BY_ID: Final = "local_shell_call_output"  # its id is the call's
_STATUSES: Final = ("in_progress", "completed", "incomplete")
_WITH_THESE: Final = frozenset(("message", "reasoning", "function_call", "function_call_output", "computer_call"))
_OF_CLIENTS: Final = frozenset(("item_reference", "mcp_approval_response", "additional_tools", "compaction_trigger"))
_NOT_KEPT: Final = (
    "Items are not persisted when `store` is set to false. Try again with `store` set to true, or remove this item"
    " from your input."
)


class IssuedItems:
    """The items of earlier answers: the reasoning that each followed, and the encrypted content of reasoning."""

    def __init__(self) -> None:
        self._reasoning_of: LRUCache[str, str] = LRUCache(_REMEMBERED)
        self._contents: LRUCache[str, bool] = LRUCache(_REMEMBERED)

    def remember(self, output: Sequence[Mapping[str, Any]]) -> None:
        """Remember an answer's items."""
        reasoning: str | None = None
        for item in output:
            if item["type"] == "reasoning":
                reasoning = item["id"]
                if "encrypted_content" in item:
                    self._contents[item["encrypted_content"]] = True
            elif reasoning is not None and isinstance(item.get("id"), str):
                self._reasoning_of[item["id"]] = reasoning

    def reasoning_of(self, item_id: object) -> str | None:
        """Return the id of the reasoning that an issued item followed."""
        return self._reasoning_of.get(item_id) if isinstance(item_id, str) else None

    def has_content(self, content: object) -> bool:
        """Return whether this encrypted content was issued."""
        return content in self._contents


def check_items(body: Mapping[str, Any], issued: IssuedItems) -> None:
    """Check the items of an input as OpenAI does, beyond their shape.

    Raises:
        BodyInvalid: OpenAI would refuse them.
    """
    given = body.get("input")
    items: list[Mapping[str, Any]] = given if isinstance(given, list) else []
    for place, item in enumerate(items):
        _check_fields(f"input[{place}]", _kind(item), item)
    _check_duplicates(items)
    _check_reasoning(items, issued)


def _kind(item: Mapping[str, Any]) -> str:
    return str(item.get("type") or ("message" if "role" in item else "item_reference"))


def _check_fields(path: str, kind: str, item: Mapping[str, Any]) -> None:
    if kind == _ANSWER_BY_ID:
        _check_length(f"{path}.id", str(item.get("id") or ""))
    elif item.get("id") is not None or kind in _NEED_AN_ID:
        _check_id(f"{path}.id", kind, item.get("id"))
    if "call_id" in item:
        _check_length(f"{path}.call_id", item["call_id"])
    for name, expected in (("status", "one of 'in_progress', 'completed', or 'incomplete'"), ("content", "an array")):
        if name in item and item[name] is None:
            raise BodyInvalid(
                f"Invalid type for '{path}.{name}': expected {expected}, but got null instead.",
                f"{path}.{name}",
                "invalid_type",
            )
    status = item.get("status", "completed")
    if kind in _WITH_THESE and status not in _STATUSES:
        raise BodyInvalid(
            f"Invalid value: '{status}'. Supported values are: 'in_progress', 'completed', and 'incomplete'.",
            f"{path}.status",
            "invalid_value",
        )


def _check_id(path: str, kind: str, given: object) -> None:
    if given is None:
        raise BodyInvalid(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
    text = str(given)
    if len(text) > _LONGEST:
        _check_length(path, text)
    if not _CHARACTERS.fullmatch(text):
        raise BodyInvalid(
            f"Invalid '{path}': '{text}'. Expected an ID that contains letters, numbers, underscores, or dashes, but"
            " this value contained additional characters.",
            path,
            "invalid_value",
        )
    prefix = _PREFIXES.get(kind, "")
    if not text.startswith(prefix):
        raise BodyInvalid(
            f"Invalid '{path}': '{text}'. Expected an ID that begins with '{prefix}'.", path, "invalid_id_prefix"
        )


def _check_length(path: str, text: str) -> None:
    if not text:
        raise BodyInvalid(
            f"Invalid '{path}': empty string. Expected a string with minimum length 1, but got an empty string"
            " instead.",
            path,
            "empty_string",
        )
    if len(text) > _LONGEST:
        raise BodyInvalid(
            f"Invalid '{path}': string too long. Expected a string with maximum length {_LONGEST}, but got a string"
            f" with length {len(text)} instead.",
            path,
            "string_above_max_length",
        )


def _check_duplicates(items: Sequence[Mapping[str, Any]]) -> None:
    seen: set[str] = set()
    for item in items:
        name = item.get("id")
        if name in seen:
            raise BodyInvalid(
                f"Duplicate item found with id {name}. Remove duplicate items from your input and try again.", "input"
            )
        if isinstance(name, str):
            seen.add(name)


def _check_reasoning(items: Sequence[Mapping[str, Any]], issued: IssuedItems) -> None:
    present: set[Any] = set()
    for item, following in zip(items, _followers(items), strict=True):
        kind, name = _kind(item), item.get("id")
        if kind == "item_reference":
            raise BodyInvalid(f"Item with id '{name}' not found. {_NOT_KEPT}", "input")
        if kind == "reasoning":
            _check_one(item, following, issued)
            present.add(name)
            continue
        needed = issued.reasoning_of(name)
        if needed is not None and needed not in present:
            raise BodyInvalid(
                f"Item '{name}' of type '{kind}' was provided without its required 'reasoning' item: '{needed}'.",
                "input",
            )


def _check_one(item: Mapping[str, Any], following: Mapping[str, Any] | None, issued: IssuedItems) -> None:
    name, content = item.get("id"), item.get("encrypted_content")
    if not content:
        raise BodyInvalid(f"Item with id '{name}' not found. {_NOT_KEPT}", "input")
    if not issued.has_content(content):
        raise BodyInvalid(
            f"The encrypted content for item {name} could not be verified. Reason: Encrypted content could not be"
            " decrypted or parsed.",
            None,
            "invalid_encrypted_content",
        )
    if following is None or not _is_of_the_model(following):
        raise BodyInvalid(
            f"Item '{name}' of type 'reasoning' was provided without its required following item.", "input"
        )


def _followers(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any] | None]:
    """Return for each item the next one that is not reasoning."""
    found: list[Mapping[str, Any] | None] = []
    following: Mapping[str, Any] | None = None
    for item in reversed(items):
        found.append(following)
        following = following if _kind(item) == "reasoning" else item
    found.reverse()
    return found


def _is_of_the_model(item: Mapping[str, Any]) -> bool:
    kind = _kind(item)
    if kind == "message":
        return item.get("role") == "assistant"
    return kind not in _OF_CLIENTS and not kind.endswith("_output")
