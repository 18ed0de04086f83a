"""Submitting a create, or joining the job of an earlier one: steps 1 and 5 to 7 of the SDK-retry protocol."""

import asyncio
import hashlib
from dataclasses import replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api.auth import Submitter
from api.dependencies import AppState
from api.sdk_retry.tracker import TRACKED, TrackedRequest
from api.submit import Submitted, is_held, submit
from api.submit_batch import NotSubmitted, UnconfirmedSubmit
from api.waiting import until_disconnected
from jobs.batching import NotBegun
from jobs.errors import CallerError, JobNotFound
from jobs.ids import new_id
from jobs.store.database import DATABASE_ERRORS, READ_SECONDS, database_now
from jobs.store.responses import get_response_document
from jobs.store.undelivered_creates import UndeliveredCreate, find_earlier_creates, submits_under_way, take_over

RETRY_COUNT: Final = "x-stainless-retry-count"
NOTICED_WITHIN: Final = timedelta(seconds=1)
"""Time within which a live process has noticed and recorded a lost connection."""
LOOK_EVERY: Final = 0.1
MAX_WAIT: Final = 8.0


async def submit_or_join(
    request: Request, raw: bytes, state: AppState, submitter: Submitter, idempotency_key: str | None
) -> Submitted:
    """Submit a job, or join the one that an earlier try of this request made.

    Raises:
        ClientDisconnect: the client left before the commit; nothing was written, and its SDK will retry.
        NotSubmitted: nothing was written, and the request may be sent again.
        UnconfirmedSubmit: it is unknown whether the job was made; if it was, a retry will find it.
        Exception: as `api.submit.submit`.
    """
    tracked: TrackedRequest = request.scope[TRACKED]
    retry_count = request.headers.get(RETRY_COUNT)
    try:
        if idempotency_key is not None or retry_count is None:
            return await submit(raw, state, submitter, idempotency_key)
        create = UndeliveredCreate(
            submitter.last_known.id, hashlib.sha256(raw).hexdigest(), new_id("req"), state.undelivered.process_id
        )
        tracked.request_id = create.request_id
        if _is_retry(retry_count):
            await submitter.confirmed()
            joined = await _join(state, create)
            if joined is not None:
                await submitter.confirmed()  # joining may have taken seconds
                holds = is_held(joined.document.settings, background=joined.job.background)
                return replace(joined, hold=state.holds.take_again(joined.job.api_key_id)) if holds else joined
        gone = asyncio.create_task(until_disconnected(request))
        try:
            return await submit(raw, state, submitter, undelivered=create, client_has_left=gone.done)
        except (CallerError, ClientDisconnect, NotSubmitted):
            tracked.request_id = None
            raise
        except UnconfirmedSubmit:
            tracked.outcome_is_unknown = True
            raise
        finally:
            gone.cancel()
    except (*DATABASE_ERRORS, NotBegun) as error:  # of a read: a failed write raises NotSubmitted or UnconfirmedSubmit
        tracked.outcome_is_unknown = True  # a job that was taken over before the failure can be joined again
        raise NotSubmitted("The database does not answer.") from error


def _is_retry(count: str) -> bool:
    return count.isascii() and count.isdigit() and count.strip("0") != ""  # int() refuses very long numbers


async def _join(state: AppState, retry: UndeliveredCreate) -> Submitted | None:
    """Take over the job of a lost create with the same body; None if there is none.

    Raises:
        NotSubmitted: an equal create was still about to be committed after `MAX_WAIT` seconds.
    """
    # a slow database may need longer for a commit than an SDK waits for its answer
    under_way = await run_in_threadpool(_submits_under_way, state, retry)
    until = monotonic() + MAX_WAIT
    while under_way and monotonic() < until:
        await asyncio.sleep(LOOK_EVERY)
        under_way &= await run_in_threadpool(_submits_under_way, state, retry)
    if under_way:  # it may still be committed, and another job would be billed again
        raise NotSubmitted("An earlier try of this request is still being written.")
    asked_at: datetime | None = None
    until = monotonic() + MAX_WAIT
    while True:
        found, asked_at, is_certain = await run_in_threadpool(_look, state, retry, asked_at)
        if found is not None or is_certain or monotonic() > until:
            return found
        await asyncio.sleep(LOOK_EVERY)


def _submits_under_way(state: AppState, retry: UndeliveredCreate) -> frozenset[str]:
    database = state.database
    with database.begin() if database.is_sqlite else database.read(within=READ_SECONDS) as tx:
        return submits_under_way(tx, retry)


def _look(
    state: AppState, retry: UndeliveredCreate, asked_at: datetime | None
) -> tuple[Submitted | None, datetime, bool]:
    """Return the job taken over, if any, when the first look was, and whether another look would change nothing."""
    with state.database.read(within=READ_SECONDS) as tx:
        now = database_now(tx)
        asked_at = asked_at or now
        earlier = find_earlier_creates(tx, retry, asked_at, now)
    for create in earlier:
        if not (create.is_lost or state.undelivered.is_lost(create.request_id)):
            continue
        with state.database.begin() as tx:
            is_taken = take_over(tx, create, retry, database_now(tx))
        if is_taken:
            try:
                with state.database.read(within=READ_SECONDS) as tx:
                    document = get_response_document(tx, create.job_id, retry.api_key_id)
            except JobNotFound:  # deleted between the two transactions
                continue
            return Submitted(document.job, document), asked_at, True
    undecided = [create for create in earlier if not create.is_lost and create.since <= asked_at]
    return None, asked_at, all(each.last_heartbeat_at >= asked_at + NOTICED_WITHIN for each in undecided)
