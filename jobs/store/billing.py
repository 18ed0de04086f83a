"""Book the cost of a call once, on the call's row and on its job.

A cost comes from the call's own report (`attempts`) or from the provider's log of calls (`reconciliation`). Where
several calls fetched one response, only the first to report books it.
"""

from datetime import datetime

from sqlalchemy import Connection, func, or_, select, update

from jobs.errors import Billed, Failure
from jobs.job import Attempt, CallReport, Cost
from jobs.retry import RULES
from jobs.store import schema


def lock_job(tx: Connection, job_id: str) -> bool:
    """Lock a job's row and return whether it exists.

    Every transaction does so before it changes the job's calls. One order of locks prevents deadlocks.
    """
    row = schema.jobs.c
    return tx.execute(select(row.id).where(row.id == job_id).with_for_update(key_share=True)).one_or_none() is not None


def booked_by_another(tx: Connection, attempt: Attempt, provider_response_id: str | None) -> bool:
    """Return whether another call of the job has booked this response, which one of the two fetched for the other.

    Equal ids alone prove nothing, because a gateway may give every answer the same id.
    """
    if provider_response_id is None:
        return False
    row = schema.attempts.c
    fetched_it = row.resumes == provider_response_id
    if attempt.resumes == provider_response_id:
        fetched_it = or_(fetched_it, row.provider_response_id == provider_response_id)
    query = select(row.number).where(
        row.job_id == attempt.job_id,
        row.number != attempt.number,
        fetched_it,
        or_(row.total_tokens.is_not(None), row.cost_microusd.is_not(None)),
    )
    return tx.execute(query.limit(1)).first() is not None


def add_to_job(tx: Connection, job_id: str, cost: Cost, now: datetime) -> None:
    """Add the cost of one call to the job's total."""
    row = schema.jobs.c
    total = func.coalesce(row.cost_microusd, 0) + cost.microusd
    adding = update(schema.jobs).where(row.id == job_id)
    tx.execute(adding.values(cost_microusd=total, cost_source=cost.source, updated_at=now))


def reconciled_microusd(tx: Connection, attempt: Attempt) -> int | None:
    """Return the microusd that the provider's log has already added to the job for this call. None if it has not."""
    row = schema.attempts.c
    known = (row.job_id == attempt.job_id, row.number == attempt.number, row.reconciled_at.is_not(None))
    return tx.execute(select(func.coalesce(row.cost_microusd, 0)).where(*known)).scalar_one_or_none()


def billed_by(report: CallReport) -> Billed:
    """Return whether the provider billed a call, by its reported cost or else by the kind of its result."""
    if report.cost is not None:
        return Billed.YES if report.cost.microusd > 0 else Billed.NO
    if isinstance(report.result, Failure):
        return RULES[report.result.kind].billed
    return Billed.YES
