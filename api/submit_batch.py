"""Writing submitted jobs to the database: creates that come together share a transaction. Each is answered after it.

A bad request does not fail the others of its batch: a batch that fails is written one by one, unless the database
itself failed. A create that waits for a lock of another session is written apart from the others.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.requests import ClientDisconnect

from api.auth import Submitter, allow
from api.held_limit import Hold
from jobs.batching import AsyncBatcher, NotBegun
from jobs.clock import STEP
from jobs.errors import CallerError
from jobs.job import Job, JobSpec
from jobs.queue_capacity import QueueCapacity
from jobs.store.api_keys import ApiKey, Scope, find_keys
from jobs.store.database import DATABASE_ERRORS, LOCK_ERRORS, CommitUnknown, Database, is_locked, sqlstate_of
from jobs.store.idempotency import Idempotency, remember
from jobs.store.jobs import submit
from jobs.store.undelivered_creates import UndeliveredCreate, announce_submits, insert_undelivered_creates
from jobs.task_queue import TaskQueue

ROW_SQLSTATES: Final = (*LOCK_ERRORS, "54")
"""SQLSTATEs of a lock, and of a value above a limit: the database works, and has written nothing."""
WRITE_SECONDS: Final = 6.0
"""Time limit of one transaction, so that no client waits ten seconds because another client's request is stuck."""
RECONNECT_WITHIN_SECONDS: Final = 1.0
LOCK_SECONDS: Final = 3.0
"""Seconds for which a create waits for a lock of another session; its client may then send it again."""
APART_SECONDS: Final = 5.0
"""Seconds for which an API key's creates are written apart after one of them met a lock."""
MOST_LOCKED: Final = 8
"""Number of API keys in one batch that meet a lock before the rest of the batch is assumed to meet it too."""
WRITTEN_WITHIN: Final = timedelta(minutes=1)
"""Longest time between the check of a request and its commit."""
BROKER_SECONDS: Final = 0.25
"""Seconds for which a create waits for the broker. Without an answer the enqueuer sends the message later."""


def never() -> bool:
    """Return False; stands for a client whose connection is not watched."""
    return False


@dataclass(frozen=True)
class PendingSubmit:
    """A checked create, and the rows written in its job's transaction. The job's deadline counts from `at`.

    A create that `is_large` has a transaction of its own, so that no other waits for its bytes to be written. It is not
    written if `client_has_left` returns True before the commit.
    """

    submitter: Submitter
    spec: JobSpec
    at: datetime
    is_large: bool
    idempotency: Idempotency | None = None
    undelivered: UndeliveredCreate | None = None
    client_has_left: Callable[[], bool] = never
    hold: Hold | None = None

    @property
    def is_due(self) -> bool:
        """Return whether the job may run at once."""
        return not self.spec.waits and (self.spec.run_at is None or self.spec.run_at <= self.at)


class NotSubmitted(Exception):
    """No job was made and nothing was written: the request may be sent again."""


class UnconfirmedSubmit(Exception):
    """It is unknown whether the job `job_id` was made: the database did not answer its commit."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id} may have been submitted")
        self.job_id = job_id


class SubmitBatcher:
    """Writes jobs and enqueues their messages, for the handlers of one event loop."""

    def __init__(self, database: Database, task_queue: TaskQueue, queue_capacity: QueueCapacity) -> None:
        self._database = database
        self._task_queue = task_queue
        self._queue_capacity = queue_capacity
        self.writes = AsyncBatcher(self._write_all)
        self._writes_apart = AsyncBatcher(self._write_all)
        self._apart_until: dict[str, float] = {}
        self._enqueues = AsyncBatcher(self._enqueue_all)
        self._look: asyncio.Task[None] | None = None
        self._looked_at = 0.0

    async def submit(self, pending: PendingSubmit) -> Job:
        """Make the job. It is durable once this returns, even if the broker did not take its message.

        Raises:
            KeyRefused: the API key has been revoked.
            NotAllowed: the API key has lost the scope.
            DuplicateRequest: another request was first under its idempotency key.
            ClientDisconnect: its client has left, and nothing was written.
            NotSubmitted: the database is away or locked, and nothing was written.
            UnconfirmedSubmit: the database did not answer the commit.
        """
        if pending.is_due:
            await self._refresh_capacity()
        job = await self._write(pending)
        if job.enqueued_at is not None:
            enqueuing = asyncio.ensure_future(self._enqueues.do(job.id))
            await asyncio.wait({enqueuing}, timeout=BROKER_SECONDS)
        return job

    async def _refresh_capacity(self) -> None:
        if self._look is None and self._queue_capacity.is_stale:
            self._looked_at = monotonic()
            self._look = asyncio.create_task(run_in_threadpool(self._queue_capacity.refresh))
            self._look.add_done_callback(self._looked)
        left = self._looked_at + BROKER_SECONDS - monotonic()
        if self._look is not None and left > 0:
            await asyncio.wait({self._look}, timeout=left)

    def _looked(self, look: "asyncio.Task[None]") -> None:
        self._look = None
        if not look.cancelled():
            look.exception()  # if the database is away, the write reports it

    async def _write(self, pending: PendingSubmit) -> Job:
        key, until = pending.submitter.last_known.id, monotonic() + LOCK_SECONDS
        while True:
            try:
                if pending.is_large:
                    (outcome,) = await run_in_threadpool(self._write_all, [pending])
                    if isinstance(outcome, Exception):
                        raise outcome
                    return outcome
                return await (self._writes_apart if self._is_apart(key) else self.writes).do(pending)
            except (*DATABASE_ERRORS, NotBegun) as error:
                if not is_locked(error):
                    raise NotSubmitted("The database does not answer.") from error
                self._apart_until[key] = monotonic() + APART_SECONDS
                if monotonic() > until:
                    raise NotSubmitted("Another session has locked what this needs in the database.") from error

    def _is_apart(self, key: str) -> bool:
        """Return whether a create of this API key met a lock in the last `APART_SECONDS`."""
        until = self._apart_until.get(key)
        if until is not None and until < monotonic():
            del self._apart_until[key]
            return False
        return until is not None

    def _write_all(self, batch: Sequence[PendingSubmit], *, brief_lock_wait: bool = False) -> list[Job | Exception]:
        try:
            return self._commit_with_reconnect(batch, brief_lock_wait=brief_lock_wait)
        except ClientDisconnect:  # clients that left during the transaction are now skipped from its start
            return self._write_all(batch, brief_lock_wait=brief_lock_wait)
        except Exception as error:
            if _fails_batch(error):
                raise
            if len(batch) == 1:
                return [error]
            return self._write_each(batch)

    def _write_each(self, batch: Sequence[PendingSubmit]) -> list[Job | Exception]:
        outcomes: list[Job | Exception] = []
        locked: dict[str, Exception] = {}
        for pending in batch:
            key = pending.submitter.last_known.id
            lock = next(iter(locked.values())) if len(locked) >= MOST_LOCKED else locked.get(key)
            if lock is not None:
                outcomes.append(lock)
                continue
            try:
                [outcome] = self._write_all([pending], brief_lock_wait=True)
            except DATABASE_ERRORS as error:  # what was committed stays; the rest would only wait in vain
                return outcomes + [error] * (len(batch) - len(outcomes))
            outcomes.append(outcome)
            if isinstance(outcome, Exception) and is_locked(outcome):
                locked[key] = outcome
        return outcomes

    def _commit_with_reconnect(self, batch: Sequence[PendingSubmit], *, brief_lock_wait: bool) -> list[Job | Exception]:
        """Commit, and try once more if the pooled connection was dead, as nothing was written over it."""
        started_at = monotonic()
        try:
            return self._commit(batch, brief_lock_wait=brief_lock_wait)
        except DBAPIError as error:
            if not error.connection_invalidated or monotonic() - started_at > RECONNECT_WITHIN_SECONDS:
                raise
        return self._commit(batch, brief_lock_wait=brief_lock_wait)

    def _commit(self, batch: Sequence[PendingSubmit], *, brief_lock_wait: bool) -> list[Job | Exception]:
        refusals: Sequence[Exception | None] = ()
        jobs: Sequence[Job] = ()
        unconfirmed: Sequence[UnconfirmedSubmit] = ()
        try:
            with self._database.begin(within=WRITE_SECONDS, brief_lock_wait=brief_lock_wait) as tx:
                # before the look at who has left, so that a retry that comes later sees this transaction
                announce_submits(tx, [pending.undelivered for pending in batch if pending.undelivered])
                keys = find_keys(tx, (pending.submitter.sha256 for pending in batch))
                refusals = [_refusal(pending, keys) for pending in batch]
                allowed = [pending for pending, refusal in zip(batch, refusals, strict=True) if refusal is None]
                jobs = self._insert(tx, allowed)
        except CommitUnknown:
            unconfirmed = [UnconfirmedSubmit(job.id) for job in jobs]
        outcomes: Iterator[Job | Exception] = iter(unconfirmed or jobs)
        return [refusal or next(outcomes) for refusal in refusals]

    def _insert(self, tx: Connection, batch: Sequence[PendingSubmit]) -> list[Job]:
        if not batch:
            return []
        now = self._database.clock()
        batch = [_as_of(pending, now) for pending in batch]
        capacity = self._queue_capacity.reserve(sum(pending.is_due for pending in batch))
        entries = []
        for pending in batch:
            is_enqueued = capacity > 0 and pending.is_due
            capacity -= is_enqueued
            entries.append((pending.spec, pending.at, is_enqueued))
        jobs = submit(tx, entries)
        submitted = list(zip(batch, jobs, strict=True))
        remember(tx, [(pending.idempotency, job) for pending, job in submitted if pending.idempotency])
        # a retry of it is on its way: with this job committed as well, both would be billed
        if any(pending.client_has_left() for pending in batch):
            raise ClientDisconnect
        insert_undelivered_creates(
            tx, [(pending.undelivered, job) for pending, job in submitted if pending.undelivered]
        )
        return jobs

    def _enqueue_all(self, job_ids: Sequence[str]) -> list[None]:
        self._task_queue.enqueue(job_ids)
        return [None] * len(job_ids)


def _as_of(pending: PendingSubmit, now: datetime) -> PendingSubmit:
    """Return `pending` as of `now` if the clock was set since its check, so that the span to its deadline is the same.

    Only SQLite's time can be set for all processes at once, and each process notices that in its next transaction.
    """
    since = now - pending.at
    if -STEP <= since <= WRITTEN_WITHIN:
        return pending
    return replace(pending, at=now, spec=replace(pending.spec, deadline_at=pending.spec.deadline_at + since))


def _refusal(pending: PendingSubmit, keys: Mapping[str, ApiKey]) -> Exception | None:
    if pending.client_has_left():
        return ClientDisconnect()
    try:
        allow(pending.submitter.still(keys.get(pending.submitter.sha256)), Scope.RESPONSES_WRITE)
    except CallerError as error:
        return error
    return None


def _fails_batch(error: Exception) -> bool:
    """Return whether the whole batch fails with it: writing one by one would only make clients wait, or bill twice.

    A lost connection is such an error. A value that is too large and a deadlock end only this transaction.
    """
    if isinstance(error, (OperationalError, InterfaceError)):
        return not sqlstate_of(error).startswith(ROW_SQLSTATES)
    return isinstance(error, PoolTimeoutError)
