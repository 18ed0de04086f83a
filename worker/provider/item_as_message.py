"""Items that AI/ML API's schema has no form for, told as messages: what a tool did remains part of the conversation.

An answer may hold more kinds than a request may. Sent as it came, one of them would have the whole conversation
refused. A request that offers tools beyond the schema goes to a provider that takes more than it documents, and there
such items go out as they came.
"""

from collections.abc import Mapping
from typing import Any, Final

from jobs.conversation import Item, is_of_the_model, kind_of
from jobs.encoding import to_text

_NEVER_WITHOUT: Final[Mapping[str, str]] = {
    "additional_tools": "tools",
    "apply_patch_call": "operation",
    "apply_patch_call_output": "call_id",
    "code_interpreter_call": "container_id",
    "compaction": "encrypted_content",
    "computer_call": "call_id",
    "computer_call_output": "output",
    "custom_tool_call": "input",
    "custom_tool_call_output": "output",
    "file_search_call": "queries",
    "image_generation_call": "id",
    "local_shell_call": "action",
    "local_shell_call_output": "output",
    "program": "code",
    "program_output": "result",
    "shell_call": "action",
    "shell_call_output": "output",
    "tool_search_call": "arguments",
    "tool_search_output": "tools",
}
"""The kinds, each with a field that it never lacks; an item without it is of a form that nobody here knows."""
_NOT_TOLD: Final = frozenset({"id", "type", "status", "encrypted_content", "fingerprint"})
_LONGEST: Final = 20_000
"""Longer texts within an item are pictures and the like, of which a text would say nothing."""


def retold(item: Any) -> Any:
    """A message that tells such an item; any other one as it is."""
    if not isinstance(item, dict):
        return item
    kind = kind_of(item) or ""
    return _message(item, kind) if _NEVER_WITHOUT.get(kind) in item else item


def _message(item: Item, kind: str) -> Item:
    emitted = {name: _shortened(value) for name, value in item.items() if name not in _NOT_TOLD}
    text = f"[{kind}] {to_text(emitted, ascii_only=False)}" if emitted else f"[{kind}]"
    return {"type": "message", "role": "assistant" if is_of_the_model(item) else "user", "content": text}


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"({len(value)} characters)"
    if isinstance(value, Mapping):
        return {name: _shortened(each) for name, each in value.items()}
    return [_shortened(each) for each in value] if isinstance(value, list) else value
