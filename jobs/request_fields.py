"""Which fields of a request we act upon ourselves; all others are the provider's, known to us or not."""

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
"""What never goes out as the client sent it. Several gateways accept OpenAI's among these and ignore them, which would
look like success; this provider documents no route by which a stored or background response could be fetched.
Of `store` one thing is sent on: that nothing is to be stored (`worker.provider.request`)."""

ENCRYPTED_REASONING: Final = "reasoning.encrypted_content"
"""The `include` by which reasoning comes in a form that can be sent back."""


def asks_for_reasoning(settings: Mapping[str, Any]) -> bool:
    """Whether a request asks for encrypted reasoning itself, and so is to be shown it."""
    include = settings.get("include")
    return isinstance(include, list) and ENCRYPTED_REASONING in include


def without_reasoning(output: Sequence[Any]) -> list[Any]:
    """Output items less the encrypted content of reasoning, as those see them who did not ask for it."""
    return [_bare(item) if isinstance(item, Mapping) else item for item in output]


def _bare(item: Mapping[str, Any]) -> Mapping[str, Any]:
    if item.get("type") != "reasoning" or "encrypted_content" not in item:
        return item
    return {name: value for name, value in item.items() if name != "encrypted_content"}
