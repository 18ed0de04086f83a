"""The frozen records of a job.

A *job* is what we run (outside it is a *response*); an *attempt* is one call for it. Times are aware and UTC, tokens
are plain counts, money is in millionths of a US dollar.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from jobs.errors import Billed, ErrorKind, Failure
from jobs.lifecycle import Status


class OnUnknownOutcome(StrEnum):
    """The step after a call that may have been billed and whose answer was lost."""

    RETRY = "retry"
    FAIL = "fail"


class Truncation(StrEnum):
    """OpenAI's two treatments of a context that is too long."""

    AUTO = "auto"
    DISABLED = "disabled"


class CostSource(StrEnum):
    """The source of a call's cost."""

    PROVIDER = "provider"
    PRICE_TABLE = "price_table"


class Outcome(StrEnum):
    """The end of an attempt."""

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
    """Cost of one call, in microusd, and its source."""

    microusd: int
    source: CostSource


@dataclass(frozen=True)
class WebhookTarget:
    """The webhook of one request: its URL, delivery target, event types and encrypted signing secret."""

    url: str = field(repr=False)
    target: str
    event_types: tuple[str, ...]
    secret: str | None = field(repr=False)


@dataclass(frozen=True)
class JobSpec:
    """A checked request, ready to be submitted.

    `settings` is the client's body as sent, without `input`, which is stored separately because it is large and a poll
    never needs it. `background` is true if the client gets an answer at once. `waits` is true if a follow-up waits for
    the previous response to end. `credentials` are the encrypted values that `settings` and `input` show as `***`.
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
    """One row of `jobs`: everything except the prompt and the answer.

    `attempt` is the number of the last call. It only grows, so it fences off stale workers. `failures` counts for the
    retry policy. Until `parked_until` a queued job is not run, because the provider's log may still show the result of
    its last call. A follow-up is not due before the response in `blocked_by` has ended. The last call was sent the
    first `sent_items` items of `sent_responses` responses of its conversation.
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

    `resumes` is the provider's id of a response that an earlier attempt paid for; this attempt only fetches it.
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
    """A usable answer.

    `response` holds the normalised fields of the answer (`output`, `usage`, the settings that the provider repeats).
    `cut_reason` is set if the provider stopped early (`max_output_tokens`, `content_filter`).
    """

    response: Mapping[str, Any]
    cut_reason: str | None = None


@dataclass(frozen=True)
class CallReport:
    """The result of one call and the facts about it.

    A failed call may have usage and cost too: an empty output is billed. `raw` is the body of a 200, even if it could
    not be read. `failed_response` holds the same fields as `Answer.response` for a failed response with output.
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
