"""Which fields of a request we act upon ourselves; all others are the provider's, known to us or not."""

from typing import Final

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
