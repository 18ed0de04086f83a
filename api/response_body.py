"""Bodies of answers: rendering them, and their shapes on the OpenAPI page.

A response always has OpenAI's full shape, and one extra key, `backburner`, for what only this server knows.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.echoed_settings import echo
from api.errors import FAILED_RESPONSES, FINAL_FAILURE
from jobs.errors import Billed, ErrorKind
from jobs.job import Attempt, CostSource, Job, Outcome, Usage
from jobs.lifecycle import Status
from jobs.model_catalog import Model
from jobs.request_fields import asks_for_reasoning, without_reasoning
from jobs.store.responses import ResponseDocument
from jobs.store.usage import UsageRow
from jobs.store.waiting_for import WaitState


def render_response(
    document: ResponseDocument, awaited: WaitState | None, *, shows_reasoning: bool = False
) -> dict[str, Any]:
    """Return a response as the SDKs read it, with every key that the Open Responses specification requires.

    Encrypted reasoning is shown if its create asked for it, or with `shows_reasoning`.
    """
    job = document.job
    awaited = awaited or WaitState()
    answer = document.answer or {}
    usage, output = answer.get("usage"), answer.get("output") or []
    asked_truncation = {"truncation": job.truncation_applied or job.truncation}
    return {
        **echo({**document.settings, **asked_truncation}, answer),
        "id": job.id,
        "object": "response",
        "created_at": _seconds(job.created_at),
        "completed_at": _seconds(job.completed_at),
        "status": job.status,
        "background": job.background,
        "error": _error(job),
        "incomplete_details": {"reason": job.incomplete_reason} if job.incomplete_reason else None,
        "metadata": dict(document.metadata),
        "model": (job.provider_model if answer else None) or job.model,
        "output": output if shows_reasoning or asks_for_reasoning(document.settings) else without_reasoning(output),
        "usage": usage if usage is not None else _usage(job.usage),
        "backburner": {
            "attempt": job.attempt,
            "max_attempts": job.max_attempts,
            "queue_position": awaited.queue_position,
            "next_attempt_at": _next_attempt_at(job),
            "parked_until": job.parked_until.timestamp() if job.parked_until else None,
            "blocked_by": job.blocked_by,
            "waiting_for": awaited.waiting_for,
            "conversation": _conversation(job),
            "provider_response_id": job.provider_response_id,
            "provider_model": job.provider_model,
            "truncation_applied": job.truncation_applied,
            "cost_usd": _dollars(job.cost.microusd) if job.cost else None,
            "cost_source": job.cost.source if job.cost else None,
            "error": _last_error(job),
        },
    }


def render_listed(document: ResponseDocument, awaited: WaitState | None, left_out: Sequence[str]) -> dict[str, Any]:
    """Return a response for a list. Settings `left_out` for their size have their defaults, and are named."""
    body = render_response(document, awaited)
    if left_out:
        body["backburner"]["left_out"] = list(left_out)
    return body


def render_attempt(attempt: Attempt) -> dict[str, Any]:
    """Return one call to the provider, without its body."""
    return {
        "object": "response.attempt",
        "id": f"{attempt.job_id}:{attempt.number}",
        "number": attempt.number,
        "started_at": attempt.started_at.timestamp(),
        "ended_at": attempt.ended_at.timestamp() if attempt.ended_at else None,
        "outcome": attempt.outcome,
        "http_status": attempt.http_status,
        "error": {"kind": attempt.error_kind, "message": attempt.error_message} if attempt.error_kind else None,
        "provider_request_id": attempt.provider_request_id,
        "provider_response_id": attempt.provider_response_id,
        "resumes": attempt.resumes,
        "truncation": attempt.truncation,
        "may_have_been_billed": attempt.billed is not Billed.NO,
        "billed": attempt.billed,
        "usage": _usage(attempt.usage),
        "cost_usd": _dollars(attempt.cost.microusd) if attempt.cost else None,
        "cost_source": attempt.cost.source if attempt.cost else None,
    }


def render_usage(row: UsageRow) -> dict[str, Any]:
    """Return the usage of one model and API key on one day."""
    return {
        "object": "usage.day",
        "id": f"{row.day.isoformat()}:{row.model}:{row.api_key_id}",
        "day": row.day.isoformat(),
        "model": row.model,
        "api_key_id": row.api_key_id,
        "api_key_name": row.api_key_name,
        "calls": row.calls,
        "input_tokens": row.usage.input_tokens,
        "output_tokens": row.usage.output_tokens,
        "total_tokens": row.usage.total_tokens,
        "cached_tokens": row.usage.cached_tokens,
        "reasoning_tokens": row.usage.reasoning_tokens,
        "cost_usd": _dollars(row.cost_microusd) if row.cost_microusd or not row.calls_of_unknown_cost else None,
        "calls_of_unknown_cost": row.calls_of_unknown_cost,
    }


def render_model(model: Model) -> dict[str, Any]:
    """Return one model, as in `models.list`."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "shutdown_date": model.shutdown_date.isoformat() if model.shutdown_date else None,
    }


def render_page(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Return a list in OpenAI's shape."""
    ids = [each["id"] for each in data]
    return {
        "object": "list",
        "data": data,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": has_more,
    }


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())


def _dollars(microusd: int) -> float:
    return microusd / 1_000_000


def _error(job: Job) -> dict[str, Any] | None:
    if job.status is not Status.FAILED:
        return None
    _, kind = FAILED_RESPONSES.get(job.error_code or "", FINAL_FAILURE)
    return {"code": job.error_code, "message": job.error_message, "type": kind, "param": job.error_param}


def _last_error(job: Job) -> dict[str, Any] | None:
    if job.error_kind is None:
        return None
    error = {"kind": job.error_kind, "http_status": job.error_http_status, "message": job.error_message}
    return {**error, "code": job.error_code}


def _next_attempt_at(job: Job) -> float | None:
    is_held_back = job.blocked_by is not None or job.parked_until is not None
    waiting = job.status is Status.QUEUED and job.available_at > job.updated_at and not is_held_back
    return job.available_at.timestamp() if waiting else None


def _conversation(job: Job) -> dict[str, int] | None:
    if job.sent_items is None or job.sent_responses is None:
        return None
    return {"responses": job.sent_responses, "items": job.sent_items}


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


class _Shape(BaseModel):
    """The shape of a body on the OpenAPI page. The functions above render the bodies."""

    model_config = ConfigDict(extra="allow")


class ErrorDetail(_Shape):
    """An error: its message, OpenAI's type and code, and the parameter that is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(_Shape):
    """An error, in OpenAI's shape."""

    error: ErrorDetail


class LastError(_Shape):
    """The error of the last attempt."""

    kind: ErrorKind
    http_status: int | None
    message: str | None
    code: str | None = Field(description="as in `error`; set once the response has failed")


class SentConversation(_Shape):
    """The part of its conversation that a follow-up's last call was sent, its own turn included."""

    responses: int
    items: int


class Facts(_Shape):
    """Backburner's own facts about a response."""

    attempt: int = Field(description="calls to the provider so far")
    max_attempts: int
    queue_position: int | None = Field(description="position among your own queued responses, counted up to 1,000")
    next_attempt_at: float | None = Field(description="unix seconds; set while the response waits for its next attempt")
    parked_until: float | None = Field(
        description="unix seconds; set while the provider's log is checked for whether the last call was billed"
    )
    blocked_by: str | None = Field(description="id of the response that has to end first")
    waiting_for: str | None = Field(
        description="while queued: what it waits for, in words (provider, free slot, `run_at`, other response)"
    )
    conversation: SentConversation | None
    provider_response_id: str | None
    provider_model: str | None
    truncation_applied: Literal["auto", "disabled"] | None
    cost_usd: float | None = Field(description="sum of all attempts")
    cost_source: CostSource | None
    error: LastError | None
    left_out: list[str] = Field(
        default=[],
        description="only in a list: settings above 16 KB, which are left out there; retrieve the response for them",
    )


class ResponseBody(_Shape):
    """A response, in OpenAI's full shape."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    background: bool
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    metadata: dict[str, str]
    backburner: Facts


class AttemptBody(_Shape):
    """One call to the provider."""

    id: str
    object: Literal["response.attempt"]
    number: int
    started_at: float
    ended_at: float | None
    outcome: Outcome | None
    may_have_been_billed: bool
    billed: Billed
    http_status: int | None
    cost_usd: float | None
    body: str | None = Field(
        default=None, description="only with `include=body`: what the provider sent in a failed call, up to 256 KB"
    )


class UsageBody(_Shape):
    """The usage of one model and API key on one day."""

    day: str
    model: str
    api_key_id: str
    calls: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost_usd: float | None = Field(description="sum of the calls with a known cost; null if there are none")
    calls_of_unknown_cost: int = Field(description="calls that may have been billed, at an unknown cost")


class ModelBody(_Shape):
    """A model that this server offers."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    shutdown_date: str | None


class Page(_Shape):
    """A page of a list."""

    object: Literal["list"]
    has_more: bool
    first_id: str | None
    last_id: str | None


class ResponsePage(Page):
    """A page of responses."""

    data: list[ResponseBody]


class AttemptPage(Page):
    """All attempts of a response."""

    data: list[AttemptBody]


class UsagePage(Page):
    """Usage by day, model and key."""

    data: list[UsageBody]


class ModelPage(Page):
    """All models."""

    data: list[ModelBody]


class InputItemPage(Page):
    """A page of a response's input items."""

    data: list[dict[str, Any]]


class InputTokens(_Shape):
    """An upper bound of the input tokens of a request; `backburner` names what it does not include."""

    object: Literal["response.input_tokens"]
    input_tokens: int
    backburner: dict[str, Any]


class Deleted(_Shape):
    """Confirmation that a response was deleted."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ProviderLimitBody(_Shape):
    """The limit on calls to the provider. `max_calls` is null if only the workers' slots limit them."""

    limit: Literal["active", "throttled", "paused"]
    reason: Literal["bad_credentials", "out_of_credit"] | None
    max_calls: int | None


class WaitingJob(_Shape):
    """The response that has been due for longest, if that is more than 30 seconds, and why it waits."""

    id: str
    seconds: float
    reason: str


class Readiness(_Shape):
    """Shows whether a response submitted now would run.

    `pick-up` is missing if slots are free and workers are connected, but no worker has taken a job for 30 seconds.
    """

    status: Literal["ok", "unavailable"]
    missing: list[Literal["database", "migrations", "worker", "pick-up", "provider", "broker"]]
    reasons: dict[str, str]
    warnings: list[str]
    provider: ProviderLimitBody | None
    waiting: WaitingJob | None
