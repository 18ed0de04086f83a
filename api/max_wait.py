"""Limit on the time that a held or streamed create waits for an unavailable provider.

Its job would wait until its deadline, which may be a day away; its client gives up much earlier. So the job is failed,
by a move that only a queued job allows: when the client reads that nothing was billed, no call can follow.
"""

import asyncio
from datetime import timedelta
from typing import Final

from fastapi.concurrency import run_in_threadpool

from api.dependencies import AppState
from jobs.errors import ERROR_CODES, ErrorKind, JobNotFound, StaleJob
from jobs.job import Job
from jobs.lifecycle import Actor, Verb
from jobs.store.attempts import may_have_been_billed
from jobs.store.database import DATABASE_ERRORS
from jobs.store.jobs import move
from jobs.store.provider_limits import read_provider_limit
from jobs.store.responses import get_job
from jobs.store.waiting_for import awaits_provider, waiting_for
from jobs.telemetry import get_logger

LOOK_EVERY: Final = 5.0
"""Seconds between two looks at a job that is past the limit but runs, or waits for something else."""

log = get_logger(__name__)


class MaxWait:
    """The limit of one create, counted from when its job was submitted."""

    def __init__(self, state: AppState, job: Job) -> None:
        self._state = state
        self._job_id = job.id
        self._limit = timedelta(seconds=state.settings.held_patience_seconds)
        waited = state.database.clock() - job.created_at
        self._look_at = asyncio.get_running_loop().time() + (self._limit - waited).total_seconds()

    @property
    def left(self) -> float:
        """Seconds until the next check of `has_run_out`."""
        return max(0.0, self._look_at - asyncio.get_running_loop().time())

    async def has_run_out(self) -> bool:
        """Return True if the job has just been failed, as it waited too long for the provider."""
        if self.left > 0:
            return False
        has_ended = await run_in_threadpool(self._fail_if_waiting)
        self._look_at = asyncio.get_running_loop().time() + LOOK_EVERY
        return has_ended

    def _fail_if_waiting(self) -> bool:
        """Fail the job, unless it may have been billed: its answer may still come, and a new create costs again."""
        state, now = self._state, self._state.database.clock()
        try:
            with state.database.read() as tx:
                job = get_job(tx, self._job_id)
                provider_limit = read_provider_limit(tx, state.settings.provider_name)
                if not awaits_provider(job, provider_limit, now) or may_have_been_billed(tx, job.id):
                    return False
            message = (
                f"The provider takes no calls, and a request is held for {self._limit.total_seconds():g} s at most:"
                f" {waiting_for(job, provider_limit, now)}. Nothing was billed. Send it again later, or with"
                " 'background', which waits for the provider."
            )
            error = {
                "error_code": ERROR_CODES[ErrorKind.UNREACHABLE],
                "error_kind": job.error_kind or provider_limit.pause_kind,
                "error_message": message,
            }
            with state.database.begin() as tx:
                _, deliveries = move(tx, Verb.FAIL_UNAVAILABLE, [(job, error)], now, by=Actor.API)
        except (StaleJob, JobNotFound):
            return False
        except DATABASE_ERRORS as error:
            log.warning("held create not failed", job_id=self._job_id, error=type(error).__name__)
            return False
        log.info(Verb.FAIL_UNAVAILABLE, job_id=job.id, attempt=job.attempt)
        state.notifier.ended([job.id], deliveries)
        return True
