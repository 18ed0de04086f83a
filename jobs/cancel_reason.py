"""Reasons for which a call to the provider is ended on our side."""

from enum import StrEnum


class AbortReason(StrEnum):
    """Reason for which this process ended a call."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"
    CALL_DEADLINE = "call_deadline"
    RELEASED = "released"
    STALLED = "stalled"
    SUPERSEDED = "superseded"
