"""Read conversations: chains of responses, each of which names the previous one.

One recursive query walks a chain of any depth. A chain is checked when a follow-up is submitted and when it is claimed;
`worker.maintenance.follow_ups` checks it for a blocked follow-up. So a response that is erased in between is noticed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import CTE, Connection, Integer, Select, and_, bindparam, func, literal, select, update

from jobs.conversation import Turn
from jobs.errors import ChainBroken
from jobs.job import Attempt, Job
from jobs.lifecycle import Status
from jobs.store import schema
from jobs.store.row_mapping import job_from

ANSWERED = frozenset({Status.COMPLETED, Status.INCOMPLETE})
MOST_BYTES = 32 * 1024 * 1024
"""Largest total size of the earlier turns of a conversation, as stored.

A worker holds them in memory during a call, beside those of a hundred other calls. No model reads as much text.
"""


@dataclass(frozen=True)
class ReadyFollowUp:
    """A blocked follow-up whose previous response has ended or was erased. `run_at` is in unix seconds."""

    job: Job
    run_at: float | None


def check_chain(tx: Connection, response_id: str, api_key_id: str) -> bool:
    """Return whether a follow-up to this response has to wait for it.

    Turns never change once they have ended, so a follow-up that has passed is not checked for its size again.

    Raises:
        ChainBroken: the response or one before it does not exist, belongs to another key or has ended without an
            answer, or all of them together are larger than `MOST_BYTES`.
    """
    row = schema.jobs.c
    query = select(row.status, row.error_message).where(row.id == response_id, row.api_key_id == api_key_id)
    found = tx.execute(query).one_or_none()
    if found is None:
        raise ChainBroken(f"Previous response with id '{response_id}' not found.", response_id)
    status = Status(found.status)
    if status.is_terminal and status not in ANSWERED:
        raise _has_no_answer(response_id, status, found.error_message)
    missing = missing_link(tx, response_id, api_key_id)
    if missing is not None:
        raise _missing(response_id, missing)
    size = _stored_bytes(tx, response_id, api_key_id)
    if size > MOST_BYTES:
        raise ChainBroken(
            f"The conversation up to response '{response_id}' is too large to be sent ({size} bytes of"
            f" {MOST_BYTES}). Begin a new one with what still matters.",
            response_id,
            "context_length_exceeded",
        )
    return not status.is_terminal


def missing_link(tx: Connection, response_id: str, api_key_id: str) -> str | None:
    """Return the latest response of a chain that does not exist. None if the chain is whole."""
    chain = _chain(response_id, api_key_id)
    deepest = select(chain.c.previous_response_id).order_by(chain.c.depth.desc()).limit(1)
    found = tx.execute(deepest).one_or_none()
    missing: str | None = response_id if found is None else found.previous_response_id
    return missing


def _stored_bytes(tx: Connection, response_id: str, api_key_id: str) -> int:
    """Return the total size of a chain's inputs and answers. All are ASCII, and PostgreSQL need not read them."""
    chain = _chain(response_id, api_key_id)
    request, answer = schema.requests, schema.answers
    length = func.length if tx.dialect.name == "sqlite" else func.octet_length
    sizes = length(request.c.input) + func.coalesce(length(answer.c.response), 0)
    query = (
        select(func.coalesce(func.sum(sizes), 0))
        .select_from(chain)
        .join(request, request.c.job_id == chain.c.id)
        .outerjoin(answer, answer.c.job_id == chain.c.id)
    )
    return int(tx.execute(query).scalar_one())


def read_turns(tx: Connection, response_id: str, api_key_id: str) -> list[Turn]:
    """Return every turn of a chain, oldest first.

    Raises:
        ChainBroken: one of them was erased.
    """
    turns, missing = read_remaining_turns(tx, response_id, api_key_id)
    if missing is not None:
        raise _missing(response_id, missing)
    return turns


def read_remaining_turns(tx: Connection, response_id: str, api_key_id: str) -> tuple[list[Turn], str | None]:
    """Return the turns of a chain that follow the latest erased one, oldest first, and the id of that one, if any."""
    chain = _chain(response_id, api_key_id)
    request, answer = schema.requests, schema.answers
    query = (
        select(chain.c.id, chain.c.previous_response_id, request.c.input, request.c.credentials, answer.c.response)
        .join(request, request.c.job_id == chain.c.id)
        .outerjoin(answer, answer.c.job_id == chain.c.id)
        .order_by(chain.c.depth.desc())
    )
    rows = tx.execute(query).all()
    turns = [Turn(row.id, row.input, output_of(row.response), row.credentials) for row in rows]
    return turns, rows[0].previous_response_id if rows else response_id


def chain_ids(tx: Connection, response_id: str, api_key_id: str) -> set[str]:
    """Return the ids of a chain's responses, back to the first one or to one that was erased."""
    return set(tx.execute(select(_chain(response_id, api_key_id).c.id)).scalars())


def block_again(tx: Connection, job: Job) -> None:
    """Block a queued follow-up again, so that its conversation is checked before it runs."""
    row = schema.jobs.c
    this = update(schema.jobs).where(row.id == job.id, row.attempt == job.attempt, row.status == Status.QUEUED)
    tx.execute(this.values(blocked_by=job.previous_response_id, available_at=job.deadline_at, enqueued_at=None))


def ready_follow_ups(tx: Connection, limit: int) -> list[ReadyFollowUp]:
    """Return at most `limit` blocked follow-ups whose previous response has ended or was erased."""
    found = tx.execute(_READY, {"most": limit}).mappings()
    return [ReadyFollowUp(job_from(each), each["settings"].get("run_at")) for each in found]


def _ready() -> Select[Any]:
    row, before = schema.jobs.c, schema.jobs.alias("before")
    is_open = select(literal(1)).where(before.c.id == row.blocked_by, before.c.completed_at.is_(None)).exists()
    return (
        select(schema.jobs, schema.requests.c.settings)
        .join(schema.requests, schema.requests.c.job_id == row.id)
        .where(row.blocked_by.is_not(None), ~is_open)
        .order_by(row.blocked_by)
        .limit(bindparam("most", type_=Integer))
    )


_READY: Final = _ready()


def unblock(tx: Connection, job: Job, now: datetime, available_at: datetime) -> bool:
    """Make a follow-up due at `available_at` and return True, if it is still blocked as `job` describes it."""
    row = schema.jobs.c
    same = (row.id == job.id, row.attempt == job.attempt, row.status == Status.QUEUED, row.blocked_by == job.blocked_by)
    values = {"blocked_by": None, "available_at": available_at, "enqueued_at": None, "updated_at": now}
    return tx.execute(update(schema.jobs).where(*same).values(values)).rowcount == 1


def note_sent(tx: Connection, attempt: Attempt, responses: int, items: int, now: datetime) -> None:
    """Store the numbers of responses and items of the conversation that a call sends."""
    row = schema.jobs.c
    this = update(schema.jobs).where(row.id == attempt.job_id, row.attempt == attempt.number)
    tx.execute(this.values(sent_responses=responses, sent_items=items, updated_at=now))


def still_needed() -> Select[Any]:
    """Select the ids of all responses in the conversations of open follow-ups.

    The query starts from the open follow-ups and probes an index once for each earlier response.
    """
    row = schema.jobs.c
    start = select(row.previous_response_id.label("id")).where(
        row.previous_response_id.is_not(None), row.completed_at.is_(None)
    )
    needed = start.cte("needed", recursive=True)
    earlier = schema.jobs.alias("earlier")
    before = select(earlier.c.previous_response_id).where(earlier.c.id == needed.c.id).scalar_subquery()
    needed = needed.union(select(before).where(needed.c.id.is_not(None)))
    return select(needed.c.id).where(needed.c.id.is_not(None))


def _chain(response_id: str, api_key_id: str) -> CTE:
    row = schema.jobs.c
    first = select(row.id, row.previous_response_id, literal(0).label("depth"))
    chain = first.where(row.id == response_id, row.api_key_id == api_key_id).cte("chain", recursive=True)
    earlier = schema.jobs.alias("earlier")
    on = and_(earlier.c.id == chain.c.previous_response_id, earlier.c.api_key_id == api_key_id)
    return chain.union_all(select(earlier.c.id, earlier.c.previous_response_id, chain.c.depth + 1).join(chain, on))


def output_of(response: Any) -> Sequence[dict[str, Any]]:
    """Return the output items of a stored answer. Empty if there is none."""
    output = (response or {}).get("output")
    return [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []


def _has_no_answer(response_id: str, status: Status, reason: str | None) -> ChainBroken:
    message = f"Previous response with id '{response_id}' is {status} and has no answer to continue from."
    if reason:
        message += f" It failed: {reason}"
    return ChainBroken(message, response_id, "previous_response_failed")


def _missing(response_id: str, missing: str) -> ChainBroken:
    if missing == response_id:
        return ChainBroken(f"Previous response with id '{missing}' not found.", missing)
    return ChainBroken(
        f"Previous response with id '{response_id}' cannot be continued: '{missing}', which came before it in the"
        " conversation, has been erased.",
        missing,
    )
