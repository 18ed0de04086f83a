"""A create that an SDK sends again by itself is given the job that it made the first time.

The SDKs send no key; `x-stainless-retry-count` above 0 is the only trace. Equal bodies alone prove nothing, for whoever
samples sends equal prompts on purpose. So a retry joins only a job whose own request lost its connection before its
answer was written, each such job once: docs/decisions/0021-sdk-retries.md.
"""

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
from api.sdk_retry.tracker import DEBT, Debt
from api.submit import Submitted, accept, is_held
from api.submit_batch import NotSubmitted, Owing, UnconfirmedSubmit
from api.waiting import until_disconnected
from jobs.batching import NotBegun
from jobs.errors import CallerError, JobNotFound
from jobs.ids import new_id
from jobs.store.database import DATABASE_ERRORS, READ_SECONDS, database_now
from jobs.store.responses import get_response_document
from jobs.store.undelivered_creates import Sender, submits_under_way, take, undelivered_creates_of

RETRY_COUNT: Final = "x-stainless-retry-count"
NOTICED_WITHIN: Final = timedelta(seconds=1)
"""How long a living process may take to hear that a connection is gone and to write it down."""
LOOK_EVERY: Final = 0.1
MAX_WAIT: Final = 8.0


async def submit_once(
    request: Request, raw: bytes, state: AppState, submitter: Submitter, idempotency_key: str | None
) -> Submitted:
    """Accept a job, or join the one that this request has made before; as `api.submit.accept`.

    Raises:
        ClientDisconnect: the client left before the job was accepted, and its SDK will send the request again.
        NotSubmitted: nothing was written, and the request may be sent again.
        Unconfirmed: it is not known whether the job was made; one that was is there to be joined.
    """
    try:
        return await _submit_once(request, raw, state, submitter, idempotency_key)
    except (*DATABASE_ERRORS, NotBegun) as error:  # of a read, as what is written says itself what came of it
        debt: Debt = request.scope[DEBT]
        debt.is_unknown = True  # an earlier try that was joined in the midst of it can be joined again
        raise NotSubmitted("The database does not answer.") from error


async def _submit_once(
    request: Request, raw: bytes, state: AppState, submitter: Submitter, idempotency_key: str | None
) -> Submitted:
    count = request.headers.get(RETRY_COUNT)
    if idempotency_key is not None or count is None:
        return await accept(raw, state, submitter, idempotency_key)
    is_again = count.isascii() and count.isdigit() and count.strip("0") != ""  # of any length: int() has a limit
    sender = Sender(
        submitter.last_known.id, hashlib.sha256(raw).hexdigest(), new_id("req"), state.undelivered.process_id
    )
    debt: Debt = request.scope[DEBT]
    debt.request_id = sender.request_id
    if is_again:
        await submitter.confirmed()
        joined = await _join(state, sender)
        if joined is not None:
            await submitter.confirmed()  # the look may have taken seconds
            holds = is_held(joined.document.settings, background=joined.job.background)
            return replace(joined, hold=state.holds.take_again(joined.job.api_key_id)) if holds else joined
    gone = asyncio.create_task(until_disconnected(request))
    try:
        return await accept(raw, state, submitter, owing=Owing(sender, gone.done))
    except (CallerError, ClientDisconnect, NotSubmitted):
        debt.request_id = None
        raise
    except UnconfirmedSubmit:
        debt.is_unknown = True
        raise
    finally:
        gone.cancel()


async def _join(state: AppState, sender: Sender) -> Submitted | None:
    """The job of a lost create of the same body, if there is one.

    The retry may be here before the loss has been noted, and a process that was killed never notes it. So a create that
    somebody still seems to wait for is looked at until the process that serves it has been heard again, or counts as
    silent. And where any process is about to commit an equal one, as a database that is slow may take longer than
    an SDK waits, that one is waited for.
    """
    before = await run_in_threadpool(_submits_under_way, state, sender)
    until = monotonic() + MAX_WAIT
    while before and monotonic() < until:
        await asyncio.sleep(LOOK_EVERY)
        before &= await run_in_threadpool(_submits_under_way, state, sender)
    if before:  # as long as it may still be committed, another would buy twice
        raise NotSubmitted("An earlier try of this request is still being written.")
    asked_at: datetime | None = None
    until = monotonic() + MAX_WAIT
    while True:
        found, asked_at, certain = await run_in_threadpool(_look, state, sender, asked_at)
        if found is not None or certain or monotonic() > until:
            return found
        await asyncio.sleep(LOOK_EVERY)


def _submits_under_way(state: AppState, sender: Sender) -> frozenset[str]:
    database = state.database
    with database.begin() if database.is_sqlite else database.read(within=READ_SECONDS) as tx:
        return submits_under_way(tx, sender)


def _look(state: AppState, sender: Sender, asked_at: datetime | None) -> tuple[Submitted | None, datetime, bool]:
    with state.database.read(within=READ_SECONDS) as tx:
        now = database_now(tx)
        asked_at = asked_at or now
        marks = undelivered_creates_of(tx, sender, asked_at, now)
    for mark in marks:
        if not (mark.lost or state.undelivered.is_lost(mark.request_id)):
            continue
        with state.database.begin() as tx:
            taken = take(tx, mark, sender, database_now(tx))
        if taken:
            try:
                with state.database.read(within=READ_SECONDS) as tx:
                    document = get_response_document(tx, mark.job_id, sender.api_key_id)
            except JobNotFound:  # deleted within this instant
                continue
            return Submitted(document.job, document), asked_at, True
    held = [mark for mark in marks if not mark.lost and mark.since <= asked_at]
    return None, asked_at, all(mark.last_heartbeat_at >= asked_at + NOTICED_WITHIN for mark in held)
