"""Bodies of failed calls, so that a client can see what was billed. They are erased with the job.

The body of a good answer is stored in `answers`.
"""

from typing import Final

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from jobs.errors import Failure
from jobs.job import Attempt, CallReport
from jobs.store import schema

MOST_BYTES: Final = 256 * 1024


def store_body(tx: Connection, attempt: Attempt, report: CallReport) -> None:
    """Store the first `MOST_BYTES` of a failed call's body, if there is one. Its job has to exist."""
    if isinstance(report.result, Failure) and report.raw:
        dialect = sqlite if tx.dialect.name == "sqlite" else postgresql
        row = {"job_id": attempt.job_id, "number": attempt.number, "body": report.raw[:MOST_BYTES]}
        tx.execute(dialect.insert(schema.attempt_bodies).values(row).on_conflict_do_nothing())


def bodies_of(tx: Connection, job_id: str, first: int, last: int) -> dict[int, bytes]:
    """Return the bodies of a job's failed calls from number `first` to `last`, by number."""
    row = schema.attempt_bodies.c
    query = select(row.number, row.body).where(row.job_id == job_id, row.number.between(first, last))
    return {each.number: each.body for each in tx.execute(query)}
