"""What a job is made of: frozen records, carried from the border inwards.

A *job* is what we run (outside it is a *response*); an *attempt* is one call for it. Moments are aware and UTC,
tokens are plain counts, money is in millionths of a US dollar.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from jobs.errors import Billed, ErrorKind, Failure
from jobs.lifecycle import Status


class OnUnknownOutcome(StrEnum):
    """What to do after a call that may have been billed and whose answer was lost."""

    RETRY = "retry"
    FAIL = "fail"


class Truncation(StrEnum):
    """OpenAI's two ways with a context that is too long."""

    AUTO = "auto"
    DISABLED = "disabled"


class CostSource(StrEnum):
    """Who says what a call cost."""

    PROVIDER = "provider"
    PRICE_TABLE = "price_table"


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    LOST = "lost"


@dataclass(frozen=True)
class Usage:
    """Tokens of one call as the provider counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Cost:
    """Money spent on one call, in microusd, and who says so."""

    microusd: int
    source: CostSource


@dataclass(frozen=True)
class WebhookTarget:
    """Where one request wants its end told: to which URL, of which events, and the secret that signs, sealed."""

    url: str = field(repr=False)
    target: str
    event_types: tuple[str, ...]
    secret: str | None = field(repr=False)


@dataclass(frozen=True)
class JobSpec:
    """A checked request, ready to be accepted.

    `settings` is the client's body without `input`, as it was sent; `input` is kept apart because it is large and
    a poll never needs it. `background` says who waits: true answers the client at once. `waits` holds a follow-up
    back until the response that it follows has ended. `credentials` are, sealed, those that `settings` and
    `input` show as `***`.
    """

    api_key_id: str
    model: str
    settings: Mapping[str, Any]
    input: Any
    deadline_at: datetime
    max_attempts: int
    on_unknown_outcome: OnUnknownOutcome
    truncation: Truncation
    background: bool = False
    priority: int = 5
    run_at: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    previous_response_id: str | None = None
    waits: bool = False
    store: bool = True
    webhook: WebhookTarget | None = None
    credentials: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Job:
    """One row of `jobs`: all that is known of a job but its prompt and its answer.

    `attempt` is the number of the last call and only grows, so it is the fence against stale workers;
    `failures` is what the retry policy counts. Until `parked_until` a queued job is not run: the provider's log may
    yet tell what became of its last call. A follow-up that `blocked_by` a response is not due before that has ended;
    `sent_items` of `sent_responses` is what of its conversation the last call was given.
    """

    id: str
    api_key_id: str
    model: str
    status: Status
    attempt: int
    failures: int
    max_attempts: int
    on_unknown_outcome: OnUnknownOutcome
    truncation: Truncation
    truncation_applied: Truncation | None
    background: bool
    priority: int
    created_at: datetime
    updated_at: datetime
    available_at: datetime
    deadline_at: datetime
    enqueued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    worker_id: str | None
    provider_response_id: str | None
    provider_model: str | None
    incomplete_reason: str | None
    error_code: str | None
    error_kind: ErrorKind | None
    error_message: str | None
    error_param: str | None
    error_http_status: int | None
    usage: Usage | None
    cost: Cost | None
    parked_until: datetime | None = None
    previous_response_id: str | None = None
    blocked_by: str | None = None
    sent_responses: int | None = None
    sent_items: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row of `attempts`: one call to the provider, committed before it was sent.

    `resumes` is the provider's id of a response that an earlier attempt has bought: this one only fetches it.
    """

    job_id: str
    number: int
    api_key_id: str
    model: str
    worker_id: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Outcome | None
    billed: Billed
    truncation: Truncation
    resumes: str | None
    error_kind: ErrorKind | None
    error_message: str | None
    http_status: int | None
    provider_request_id: str | None
    provider_response_id: str | None
    usage: Usage | None
    cost: Cost | None


@dataclass(frozen=True)
class Answer:
    """A usable answer as we read it.

    `response` holds the normalised fields that an answer brings (`output`, `usage`, what the provider echoed);
    `cut_reason` is set when the provider stopped early (`max_output_tokens`, `content_filter`).
    """

    response: Mapping[str, Any]
    cut_reason: str | None = None


@dataclass(frozen=True)
class CallReport:
    """What one call came to, and what is known about the call itself.

    A failed call may carry usage and cost all the same: an empty output is paid for. `raw` is the body of a 200,
    whether or not we could read it. `failed_response` holds what an `Answer` does, of a response that failed and yet
    has output.
    """

    result: Answer | Failure
    http_status: int | None = None
    raw: bytes | None = None
    failed_response: Mapping[str, Any] | None = None
    provider_request_id: str | None = None
    provider_response_id: str | None = None
    provider_model: str | None = None
    usage: Usage | None = None
    cost: Cost | None = None
