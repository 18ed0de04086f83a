"""Reads a request body as the provider does: roughly checked, its rules those of the documented schema.

The checks cover what a client can get wrong when it builds a request or rebuilds a conversation. Unknown top-level
fields are accepted and ignored, as the provider does.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from simulator.script import find_directive, without_directives

_EXCERPT: Final = 2_000
_INCLUDES: Final = frozenset(
    (
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "reasoning.encrypted_content",
        "code_interpreter_call.outputs",
    )
)


class BodyInvalid(ValueError):
    """The body breaks the schema; the text is the provider's message."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"Body validation error\n{detail}")


@dataclass(frozen=True, slots=True)
class Turn:
    """One valid request. The input itself is not kept: ten thousand held calls should cost little."""

    model: str
    prompt: str
    """The start of the turn's last text, without directives."""
    prompt_sha256: bytes
    """Of a string input's UTF-8 bytes; of any other input, of its canonical JSON (sorted keys, no spaces)."""
    script: str | None
    input_tokens: int
    settings: Mapping[str, Any]
    """Every field but `input`."""

    @property
    def stream(self) -> bool:
        """Whether the client asked for SSE."""
        return self.settings.get("stream") is True

    @property
    def background(self) -> bool:
        """Whether the client asked for background mode."""
        return self.settings.get("background") is True


def prompt_hash(prompt: Any) -> bytes:
    """The hash by which the ledger knows an `input`."""
    if not isinstance(prompt, str):
        prompt = json.dumps(prompt, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()


def read_turn(body: Mapping[str, Any]) -> Turn:
    """Check a body and take from it what an answer needs.

    Raises:
        BodyInvalid: the provider would refuse it.
        ScriptError: it holds a directive that does not parse.
    """
    _check(body)
    given = body["input"]
    instructions = body.get("instructions") or ""
    texts = [given] if isinstance(given, str) else list(_texts_of_turn(given))
    script = find_directive(instructions) or find_directive("\n".join(texts))
    everything = len(given) if isinstance(given, str) else len(json.dumps(given))
    return Turn(
        model=body["model"],
        prompt=without_directives(texts[-1] if texts else "")[:_EXCERPT].strip(),
        prompt_sha256=prompt_hash(given),
        script=script,
        input_tokens=7 + (everything + len(instructions)) // 4,
        settings={name: value for name, value in body.items() if name != "input"},
    )


def _texts_of_turn(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts after the model's own last item: what this turn adds to the conversation."""
    texts: list[str] = []
    for item in items:
        if item.get("role") == "assistant" or item.get("type") in ("reasoning", "function_call"):
            texts.clear()
            continue
        content = item.get("content", item.get("output"))
        if isinstance(content, str):
            texts.append(content)
        elif isinstance(content, list):
            texts += [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return texts


@dataclass(frozen=True, slots=True)
class _Rule:
    expected: str
    holds: Callable[[Any], bool]


def _nullable(rule: _Rule) -> _Rule:
    return _Rule(rule.expected, lambda value: value is None or rule.holds(value))


def _one_of(*values: str) -> _Rule:
    expected = " | ".join(f"'{value}'" for value in values)
    return _Rule(expected, lambda value: isinstance(value, str) and value in values)


def _format_holds(value: Any) -> bool:
    match value:
        case {"format": {"type": "text" | "json_object"}}:
            return True
        case {"format": {"type": "json_schema", "name": str(), "schema": dict()}}:
            return True
    return False


_STRING: Final = _Rule("string", lambda value: isinstance(value, str))
_BOOLEAN: Final = _Rule("boolean", lambda value: isinstance(value, bool))
_OBJECT: Final = _Rule("object", lambda value: isinstance(value, dict))

_RULES: Final[Mapping[str, _Rule]] = MappingProxyType(
    {
        "model": _STRING,
        "input": _Rule("string or array", lambda value: isinstance(value, str | list)),
        "background": _BOOLEAN,
        "include": _nullable(
            _Rule("array of known values", lambda value: isinstance(value, list) and _INCLUDES.issuperset(value))
        ),
        "instructions": _nullable(_STRING),
        "max_output_tokens": _Rule(
            "integer greater than or equal to 16",
            lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 16,
        ),
        "parallel_tool_calls": _nullable(_BOOLEAN),
        "previous_response_id": _nullable(_STRING),
        "prompt": _nullable(_OBJECT),
        "reasoning": _nullable(_OBJECT),
        "store": _nullable(_BOOLEAN),
        "stream": _nullable(_BOOLEAN),
        "text": _Rule("object with a format", _format_holds),
        "tool_choice": _Rule("string or object", lambda value: isinstance(value, str | dict)),
        "tools": _Rule(
            "array of objects with a type",
            lambda value: isinstance(value, list) and all(isinstance(tool, dict) and "type" in tool for tool in value),
        ),
        "truncation": _one_of("auto", "disabled"),
    }
)
_REASONING_RULES: Final[Mapping[str, _Rule]] = MappingProxyType(
    {
        "effort": _nullable(_one_of("low", "medium", "high")),
        "summary": _nullable(_one_of("auto", "concise", "detailed")),
    }
)
_ITEM_FIELDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "message": ("role", "content"),
        "web_search_call": ("id", "status"),
        "function_call": ("arguments", "call_id", "name"),
        "function_call_output": ("call_id", "output"),
        "reasoning": ("id", "summary"),
        "mcp_list_tools": ("id", "server_label", "tools"),
        "mcp_approval_request": ("id", "arguments", "name", "server_label"),
        "mcp_approval_response": ("approval_request_id", "approve"),
        "mcp_call": ("id", "arguments", "name", "server_label"),
        "item_reference": ("id",),
    }
)
_INPUT_PARTS: Final = frozenset(("input_text", "input_image", "input_file"))
_OUTPUT_PARTS: Final = frozenset(("output_text", "refusal"))
_ROLES: Final = frozenset(("user", "assistant", "system", "developer"))


def _check(body: Mapping[str, Any]) -> None:
    for name in ("model", "input"):
        if name not in body:
            raise BodyInvalid(f"Required at '{name}'. Expected {_RULES[name].expected}, received undefined")
    _check_fields("", _RULES, body)
    if isinstance(body.get("reasoning"), dict):
        _check_fields("reasoning.", _REASONING_RULES, body["reasoning"])
    if isinstance(body["input"], list):
        for position, item in enumerate(body["input"]):
            if not _item_holds(item):
                raise BodyInvalid(f"Invalid input at 'input[{position}]'. Expected one of the item forms")


def _check_fields(prefix: str, rules: Mapping[str, _Rule], values: Mapping[str, Any]) -> None:
    for name, rule in rules.items():
        if name in values and not rule.holds(values[name]):
            received = json.dumps(values[name])[:100]
            raise BodyInvalid(f"Invalid value at '{prefix}{name}'. Expected {rule.expected}, received {received}")


def _item_holds(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    kind = item.get("type", "message")
    required = _ITEM_FIELDS.get(kind) if isinstance(kind, str) else None
    if required is None or any(name not in item for name in required):
        return False
    return kind != "message" or _message_holds(item)


def _message_holds(item: Mapping[str, Any]) -> bool:
    content = item["content"]
    if item["role"] not in _ROLES:
        return False
    if isinstance(content, str):
        return True
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return False
    kinds = {part.get("type") for part in content}
    if item["role"] == "assistant" and "id" in item and "status" in item and "type" in item:
        return kinds <= _OUTPUT_PARTS  # an earlier answer given back must be a whole output message
    return kinds <= _INPUT_PARTS
