"""The lenient rules: the bodies that OpenAI accepts. Null means the same as absent, and unknown fields are accepted.

Three things are refused: a wrong JSON type in a known field, a value out of its bounds, and an item without its
required fields.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import Any, Final

from simulator.rules.messages import BodyInvalid, invalid, missing


@dataclass(frozen=True, slots=True)
class _Rule:
    """The JSON types of a value, and a further condition. Types are checked first, as that is cheap."""

    expected: str
    types: frozenset[type]
    fits: Callable[[Any], bool] | None = None

    def holds(self, value: Any) -> bool:
        return type(value) in self.types and (self.fits is None or self.fits(value))


_Rules = Mapping[str, _Rule]


def _within(kind: str, types: Iterable[type], least: float, most: float) -> _Rule:
    bounds = f"greater than or equal to {least}" if most == inf else f"from {least} to {most}"
    return _Rule(f"{kind} {bounds}", frozenset(types), lambda value: least <= value <= most)


def _rule(expected: str, *types: type) -> _Rule:
    return _Rule(expected, frozenset(types))


_STRING: Final = _rule("string", str)
_BOOLEAN: Final = _rule("boolean", bool)
_OBJECT: Final = _rule("object", dict)
_ARRAY: Final = _rule("array", list)
_STRING_OR_ARRAY: Final = _rule("string or array", str, list)
_STRING_OR_OBJECT: Final = _rule("string or object", str, dict)
_STRINGS: Final = _Rule(
    "array of strings", frozenset((list,)), lambda value: all(isinstance(each, str) for each in value)
)
_METADATA: Final = _Rule(
    "object of strings", frozenset((dict,)), lambda value: all(isinstance(each, str) for each in value.values())
)
_TRUNCATION: Final = _Rule("'auto' | 'disabled'", frozenset((str,)), lambda value: value in ("auto", "disabled"))

_FIELDS: Final[_Rules] = MappingProxyType(
    {
        "model": _STRING,
        "input": _STRING_OR_ARRAY,
        "background": _BOOLEAN,
        "conversation": _STRING_OR_OBJECT,
        "include": _STRINGS,
        "instructions": _STRING,
        "max_output_tokens": _within("integer", (int,), 16, inf),
        "max_tool_calls": _within("integer", (int,), 1, inf),
        "metadata": _METADATA,
        "parallel_tool_calls": _BOOLEAN,
        "previous_response_id": _STRING,
        "prompt": _OBJECT,
        "prompt_cache_key": _STRING,
        "reasoning": _OBJECT,
        "safety_identifier": _STRING,
        "service_tier": _STRING,
        "store": _BOOLEAN,
        "stream": _BOOLEAN,
        "stream_options": _OBJECT,
        "temperature": _within("number", (int, float), 0, 2),
        "text": _OBJECT,
        "tool_choice": _STRING_OR_OBJECT,
        "tools": _ARRAY,
        "top_logprobs": _within("integer", (int,), 0, 20),
        "top_p": _within("number", (int, float), 0, 1),
        "truncation": _TRUNCATION,
        "user": _STRING,
    }
)
_REASONING: Final[_Rules] = MappingProxyType({"effort": _STRING, "summary": _STRING})
_TEXT: Final[_Rules] = MappingProxyType({"format": _OBJECT, "verbosity": _STRING})
_FORMAT: Final[_Rules] = MappingProxyType(
    {"type": _STRING, "name": _STRING, "schema": _OBJECT, "strict": _BOOLEAN, "description": _STRING}
)
_TYPE: Final[_Rules] = MappingProxyType({"type": _STRING})
_ID: Final[_Rules] = MappingProxyType({"id": _STRING})
_NAME: Final[_Rules] = MappingProxyType({"name": _STRING})
_FUNCTION: Final[_Rules] = MappingProxyType({"parameters": _OBJECT, "strict": _BOOLEAN, "description": _STRING})
_PART: Final[_Rules] = MappingProxyType(
    {"type": _STRING, "text": _STRING, "refusal": _STRING, "image_url": _STRING, "detail": _STRING}
)
_TEXT_PARTS: Final = frozenset(("input_text", "output_text"))

_ITEM: Final[_Rules] = MappingProxyType({"type": _STRING, "id": _STRING, "status": _STRING})
_CALL_OUTPUT: Final[_Rules] = MappingProxyType({"call_id": _STRING, "output": _STRING_OR_ARRAY})
_ITEM_FIELDS: Final[Mapping[str, _Rules]] = MappingProxyType(
    {
        "message": {"role": _STRING, "content": _STRING_OR_ARRAY},
        "function_call": {"call_id": _STRING, "name": _STRING, "arguments": _STRING},
        "function_call_output": _CALL_OUTPUT,
        "custom_tool_call": {"call_id": _STRING, "name": _STRING, "input": _STRING},
        "custom_tool_call_output": _CALL_OUTPUT,
        "item_reference": _ID,
    }
)


def check_leniently(body: Mapping[str, Any]) -> None:
    """Check a body as OpenAI does.

    Raises:
        BodyInvalid: OpenAI would refuse it.
    """
    for name, value in body.items():
        rule = _FIELDS.get(name)
        if rule is None or value is None or (type(value) in rule.types and rule.fits is None):
            continue
        if not rule.holds(value):
            raise invalid(name, rule.expected, value)
    if body.get("model") is None:
        raise missing("model", "string")
    given = body.get("input")
    if isinstance(given, list):
        for position, item in enumerate(given):
            _check_item(f"input[{position}]", item)
    elif given is None and all(body.get(name) is None for name in ("prompt", "previous_response_id", "conversation")):
        raise BodyInvalid('One of "input" or "previous_response_id" or "prompt" or "conversation_id" must be provided.')
    _check_settings(body)


def _check_settings(body: Mapping[str, Any]) -> None:
    if body.get("prompt") is not None:
        _check_required("prompt", _ID, body["prompt"])
    if body.get("reasoning"):
        _check_optional("reasoning", _REASONING, body["reasoning"])
    if body.get("text"):
        _check_text(body["text"])
    for position, tool in enumerate(body.get("tools") or ()):
        path = f"tools[{position}]"
        _check_object(path, tool)
        _check_required(path, _TYPE, tool)
        if tool["type"] in ("function", "custom"):
            _check_required(path, _NAME, tool)
            _check_optional(path, _FUNCTION, tool)
    if isinstance(body.get("tool_choice"), dict):
        _check_required("tool_choice", _TYPE, body["tool_choice"])


def _check_text(text: Mapping[str, Any]) -> None:
    _check_optional("text", _TEXT, text)
    text_format = text.get("format") or {}
    _check_optional("text.format", _FORMAT, text_format)
    if text_format.get("type") == "json_schema":
        _check_required("text.format", {name: _FORMAT[name] for name in ("name", "schema")}, text_format)


def _check_item(path: str, item: Any) -> None:
    _check_object(path, item)
    _check_optional(path, _ITEM, item)
    kind = item.get("type") or ("message" if "role" in item or "id" not in item else "item_reference")
    if kind in _ITEM_FIELDS:
        _check_required(path, _ITEM_FIELDS[kind], item)
    for name in ("content", "output"):
        if isinstance(item.get(name), list):
            _check_parts(f"{path}.{name}", item[name])


def _check_parts(path: str, parts: Sequence[Any]) -> None:
    for position, part in enumerate(parts):
        place = f"{path}[{position}]"
        _check_object(place, part)
        _check_optional(place, _PART, part)
        if part.get("type") in _TEXT_PARTS:
            _check_required(place, {"text": _STRING}, part)


def _check_object(path: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise invalid(path, "object", value)


def _check_optional(path: str, rules: _Rules, values: Mapping[str, Any]) -> None:
    for name, rule in rules.items():
        value = values.get(name)
        if value is not None and not rule.holds(value):
            raise invalid(f"{path}.{name}", rule.expected, value)


def _check_required(path: str, rules: _Rules, values: Mapping[str, Any]) -> None:
    for name, rule in rules.items():
        value = values.get(name)
        if value is None:
            raise missing(f"{path}.{name}", rule.expected)
        if not rule.holds(value):
            raise invalid(f"{path}.{name}", rule.expected, value)
