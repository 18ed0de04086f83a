"""Webhooks as data: event types, the envelope, the Standard Webhooks signature, and the retry schedule.

The scheme is https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md; OpenAI's SDKs
verify it with `client.webhooks.unwrap`. Nothing here has a clock, I/O or randomness of its own.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from jobs.lifecycle import Status

SHORTEST_SECRET_BYTES: Final = 16
"""Standard Webhooks asks for 24 to 64 bytes. Existing endpoints have shorter secrets; below this limit a secret can be
found by trial."""
SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # a prefix, not a secret
SECRET_BYTES: Final = 32


class EventType(StrEnum):
    """The events that an endpoint can receive, in OpenAI's words."""

    COMPLETED = "response.completed"
    FAILED = "response.failed"
    CANCELLED = "response.cancelled"
    INCOMPLETE = "response.incomplete"


EVENT_OF: Final[Mapping[Status, EventType]] = MappingProxyType(
    {
        Status.COMPLETED: EventType.COMPLETED,
        Status.FAILED: EventType.FAILED,
        Status.CANCELLED: EventType.CANCELLED,
        Status.INCOMPLETE: EventType.INCOMPLETE,
    }
)
"""The event for each final status of a response."""


class DeliveryStatus(StrEnum):
    """The status of a delivery: one event for one endpoint."""

    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"


class DeliveryError(StrEnum):
    """The reason why a delivery attempt failed, without any text of the endpoint."""

    ADDRESS_REFUSED = "address_refused"
    NAME_UNRESOLVED = "name_unresolved"
    UNREACHABLE = "unreachable"
    TLS_FAILED = "tls_failed"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    REDIRECTED = "redirected"
    HTTP_ERROR = "http_error"
    GONE = "gone"
    SECRET_UNREADABLE = "secret_unreadable"  # noqa: S105  # the name of an error
    LOST = "lost"
    ENDPOINT_DISABLED = "endpoint_disabled"


class DisabledFor(StrEnum):
    """The reason why an endpoint gets no more deliveries."""

    FAILING = "failing"
    GONE = "gone"


def envelope(event_id: str, event_type: EventType, response_id: str, now: datetime) -> str:
    """Return the body of a delivery in OpenAI's shape, as text, so that each attempt signs the same bytes."""
    body = {
        "id": event_id,
        "object": "event",
        "created_at": int(now.timestamp()),
        "type": event_type,
        "data": {"id": response_id},
    }
    return json.dumps(body, separators=(",", ":"))


def new_secret(random: bytes) -> str:
    """Return a signing secret made of `random`, in the form that webhook libraries accept."""
    return SECRET_PREFIX + base64.b64encode(random).decode("ascii")


def key_of(secret: str) -> bytes:
    """Return the signing key: the base64 after `whsec_`, or the bytes of any other secret, as the SDKs do.

    Raises:
        ValueError: the text after `whsec_` is not base64, or is empty.
    """
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not key:
        raise ValueError("expected base64 after 'whsec_'")
    return key


def signature(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """Return a signature of the scheme's first version, `v1,<base64>`; `timestamp` is in unix seconds."""
    signed = b".".join((event_id.encode(), str(timestamp).encode(), body))
    digest = hmac.new(key_of(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode('ascii')}"


def signed_headers(secrets: Iterable[str], event_id: str, moment: datetime, body: bytes) -> dict[str, str]:
    """Return the headers that let an endpoint verify `body`, with one signature for each secret."""
    timestamp = int(moment.timestamp())
    headers = {"webhook-id": event_id, "webhook-timestamp": str(timestamp)}
    signatures = [signature(secret, event_id, timestamp, body) for secret in secrets]
    if signatures:
        headers["webhook-signature"] = " ".join(signatures)
    return headers


SCHEDULE: Final = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""Delays after the first failed attempt, the second, and so on. After one more failure the delivery has failed."""
MAX_FAILURES: Final = len(SCHEDULE) + 1
MOST_LOST_IN_A_ROW: Final = 2
"""Consecutive lost attempts that are not counted: a worker may die now and then, but not at every attempt."""
JITTER: Final = 0.1
LONGEST_RETRY_AFTER: Final = timedelta(hours=24)
WARN_AFTER: Final = timedelta(days=2)
DISABLE_AFTER: Final = timedelta(days=5)
DELIVERY_SECONDS: Final = 20.0
OLD_SECRET_LIVES: Final = timedelta(hours=24)
HEEDED: Final = frozenset({429, 503})
"""The statuses with which an endpoint may ask for a longer delay by `Retry-After`."""


def delay_after(failures: int, *, jitter: float, retry_after: timedelta | None = None) -> timedelta | None:
    """Return the delay after the `failures`-th failed attempt (1, 2, ...); None if it was the last.

    `jitter`, drawn from [0, 1), adds up to a tenth, so that deliveries that failed together are not repeated together.
    The endpoint's `Retry-After` is the minimum.
    """
    if failures >= MAX_FAILURES:
        return None
    delay = SCHEDULE[failures - 1] * (1 + JITTER * jitter)
    return delay if retry_after is None else max(delay, min(retry_after, LONGEST_RETRY_AFTER))


@dataclass(frozen=True)
class DeliveryReport:
    """The result of one delivery attempt; `error` is None if the endpoint took the event.

    `shortage` names a resource that this server lacked, so that nothing was sent.
    """

    error: DeliveryError | None
    http_status: int | None = None
    retry_after: timedelta | None = None
    shortage: str | None = None
