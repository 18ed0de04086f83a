"""What calls brought that is no answer: kept with the call, for whoever wants to see what was paid for.

Erased with the job. What a good answer was made of is kept beside that answer instead.
"""

from typing import Final

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from jobs.errors import Failure
from jobs.job import Attempt, CallReport
from jobs.store import schema

MOST_BYTES: Final = 256 * 1024


def keep_body(tx: Connection, attempt: Attempt, report: CallReport) -> None:
    """Keep the first `MOST_BYTES` of what a failed call of a job that still exists brought, if anything came."""
    if isinstance(report.result, Failure) and report.raw:
        dialect = sqlite if tx.dialect.name == "sqlite" else postgresql
        kept = {"job_id": attempt.job_id, "number": attempt.number, "body": report.raw[:MOST_BYTES]}
        tx.execute(dialect.insert(schema.attempt_bodies).values(kept).on_conflict_do_nothing())


def bodies_of(tx: Connection, job_id: str, first: int, last: int) -> dict[int, bytes]:
    """What the failed calls `first` to `last` of a job brought, by the call's number."""
    row = schema.attempt_bodies.c
    query = select(row.number, row.body).where(row.job_id == job_id, row.number.between(first, last))
    return {each.number: each.body for each in tx.execute(query)}
