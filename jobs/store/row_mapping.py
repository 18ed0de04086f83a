"""Convert rows of `jobs` and `attempts` to frozen records, and usage and cost to columns."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import RowMapping

from jobs.errors import Billed, ErrorKind
from jobs.job import Attempt, Cost, CostSource, Job, OnUnknownOutcome, Outcome, Truncation, Usage
from jobs.lifecycle import Status

E = TypeVar("E", bound=StrEnum)


def job_from(row: RowMapping) -> Job:
    """Return the job of a row of `jobs`."""
    return Job(
        id=row["id"],
        api_key_id=row["api_key_id"],
        model=row["model"],
        status=Status(row["status"]),
        attempt=row["attempt"],
        failures=row["failures"],
        max_attempts=row["max_attempts"],
        on_unknown_outcome=OnUnknownOutcome(row["on_unknown_outcome"]),
        truncation=Truncation(row["truncation"]),
        truncation_applied=_enum(Truncation, row["truncation_applied"]),
        background=row["background"],
        priority=row["priority"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        available_at=row["available_at"],
        deadline_at=row["deadline_at"],
        enqueued_at=row["enqueued_at"],
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        worker_id=row["worker_id"],
        provider_response_id=row["provider_response_id"],
        provider_model=row["provider_model"],
        incomplete_reason=row["incomplete_reason"],
        error_code=row["error_code"],
        error_kind=_enum(ErrorKind, row["error_kind"]),
        error_message=row["error_message"],
        error_param=row["error_param"],
        error_http_status=row["error_http_status"],
        usage=_usage(row),
        cost=_cost(row),
        parked_until=row["parked_until"],
        previous_response_id=row["previous_response_id"],
        blocked_by=row["blocked_by"],
        sent_responses=row["sent_responses"],
        sent_items=row["sent_items"],
    )


def attempt_from(row: RowMapping) -> Attempt:
    """Return the attempt of a row of `attempts`."""
    return Attempt(
        job_id=row["job_id"],
        number=row["number"],
        api_key_id=row["api_key_id"],
        model=row["model"],
        worker_id=row["worker_id"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        outcome=_enum(Outcome, row["outcome"]),
        billed=Billed(row["billed"]),
        truncation=Truncation(row["truncation"]),
        resumes=row["resumes"],
        error_kind=_enum(ErrorKind, row["error_kind"]),
        error_message=row["error_message"],
        http_status=row["http_status"],
        provider_request_id=row["provider_request_id"],
        provider_response_id=row["provider_response_id"],
        usage=_usage(row),
        cost=_cost(row),
    )


def usage_columns(usage: Usage | None) -> Mapping[str, Any]:
    """Return the columns that hold `usage`, by name."""
    if usage is None:
        return {}
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def cost_columns(cost: Cost | None) -> Mapping[str, Any]:
    """Return the columns that hold `cost`, by name."""
    return {} if cost is None else {"cost_microusd": cost.microusd, "cost_source": cost.source}


def _enum(kind: type[E], value: Any) -> E | None:
    return None if value is None else kind(value)


def _usage(row: RowMapping) -> Usage | None:
    if row["total_tokens"] is None:
        return None
    return Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        total_tokens=row["total_tokens"],
        cached_tokens=row["cached_tokens"],
        reasoning_tokens=row["reasoning_tokens"],
    )


def _cost(row: RowMapping) -> Cost | None:
    if row["cost_microusd"] is None:
        return None
    return Cost(row["cost_microusd"], CostSource(row["cost_source"]))
