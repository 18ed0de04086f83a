"""Fields of a request that this server handles itself. All others go to the provider, known here or not."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

OWN_FIELDS: Final = frozenset(
    {"webhook", "max_attempts", "deadline_seconds", "on_unknown_outcome", "priority", "run_at"}
)
"""Our additions to OpenAI's request; an SDK sends them as `extra_body`."""

WITHHELD_FIELDS: Final = OWN_FIELDS | {
    "background",
    "background_options",
    "conversation",
    "metadata",
    "previous_response_id",
    "store",
    "stream",
    "stream_options",
}
"""Fields that are never sent as the client sent them. Several gateways accept OpenAI's fields among these and ignore
them, which would look like success, and this provider documents no route to fetch a stored or background response.
`store: false` alone is sent on (`worker.provider.request`)."""

ENCRYPTED_REASONING: Final = "reasoning.encrypted_content"
"""The `include` that asks for reasoning in a form that can be sent back."""


def asks_for_reasoning(settings: Mapping[str, Any]) -> bool:
    """Return whether a request asks for encrypted reasoning, and so is shown it."""
    include = settings.get("include")
    return isinstance(include, list) and ENCRYPTED_REASONING in include


def without_reasoning(output: Sequence[Any]) -> list[Any]:
    """Return output items without encrypted reasoning, for clients that did not ask for it."""
    return [_bare(item) if isinstance(item, Mapping) else item for item in output]


def _bare(item: Mapping[str, Any]) -> Mapping[str, Any]:
    if item.get("type") != "reasoning" or "encrypted_content" not in item:
        return item
    return {name: value for name, value in item.items() if name != "encrypted_content"}
