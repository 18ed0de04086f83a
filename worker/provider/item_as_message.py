"""Messages in place of items for which AI/ML API's schema has no form, so that the conversation keeps what a tool did.

An answer may hold more types of item than a request may. Sent unchanged, one such item would make the provider refuse
the whole conversation. A request that offers tools beyond the schema goes to a provider that accepts more than it
documents, and there such items are sent unchanged.
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
"""Types of item, each with a field that it always has. An item without that field has an unknown form."""
_OMITTED_FIELDS: Final = frozenset({"id", "type", "status", "encrypted_content", "fingerprint"})
_LONGEST: Final = 20_000
"""Longer texts in an item are images and the like, which mean nothing as text."""


def as_message(item: Any) -> Any:
    """Return a message that describes such an item; any other item unchanged."""
    if not isinstance(item, dict):
        return item
    kind = kind_of(item) or ""
    return _message(item, kind) if _NEVER_WITHOUT.get(kind) in item else item


def _message(item: Item, kind: str) -> Item:
    kept = {name: _shortened(value) for name, value in item.items() if name not in _OMITTED_FIELDS}
    text = f"[{kind}] {to_text(kept, ascii_only=False)}" if kept else f"[{kind}]"
    return {"type": "message", "role": "assistant" if is_of_the_model(item) else "user", "content": text}


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"({len(value)} characters)"
    if isinstance(value, Mapping):
        return {name: _shortened(each) for name, each in value.items()}
    return [_shortened(each) for each in value] if isinstance(value, list) else value
