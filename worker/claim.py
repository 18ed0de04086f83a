"""Claims: a message becomes a job of this worker with an attempt, or nothing. Concurrent messages share a transaction.

The attempt's row is committed before its call is sent, however many jobs were claimed with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from jobs.batching import Batcher, BatchFailed
from jobs.clock import AGREE_WITHIN
from jobs.errors import StaleJob
from jobs.job import Attempt, Job
from jobs.store.attempts import begin_attempts
from jobs.store.database import DATABASE_ERRORS, TOGETHER_SECONDS, Database
from jobs.telemetry import get_logger
from worker.provider_limiter import ProbeTaken, ProviderLimiter
from worker.registration import WorkerRegistration

log = get_logger(__name__)


@dataclass(frozen=True)
class Claimed:
    """A claimed job and its attempt. `is_probe` if the provider is paused or seems away, and this call tries it."""

    job: Job
    attempt: Attempt
    is_probe: bool


class Claimer:
    """Claims for one worker process."""

    def __init__(
        self,
        database: Database,
        registration: WorkerRegistration,
        provider_limit: ProviderLimiter,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._registration = registration
        self._provider_limit = provider_limit
        self._clock = clock
        self._batches = Batcher(self._claim_all)

    def claim(self, job_id: str) -> Claimed | None:
        """Claim a job. Return None if its message is stale, no call may be made now, or the database is away."""
        try:
            try:
                return self._batches.do(job_id)
            except BatchFailed:
                return self._claim_all([job_id])[0]
        except (ProbeTaken, StaleJob):
            return None
        except DATABASE_ERRORS as error:
            log.warning("claim failed", job_id=job_id, error=type(error).__name__)
            return None

    def _claim_all(self, job_ids: Sequence[str]) -> list[Claimed | None]:
        worker_id = self._registration.claiming_as
        if worker_id is None:
            return [None] * len(job_ids)
        with self._database.begin(within=TOGETHER_SECONDS) as tx:
            provider_limit, room = self._provider_limit.admits(tx, len(job_ids))
            ids, now = list(dict.fromkeys(job_ids)), self._clock()
            begun = begin_attempts(tx, ids, worker_id, now, room, early=AGREE_WITHIN) if room else []
            is_probe = bool(begun) and self._provider_limit.is_probe(tx, provider_limit, begun[0][0].id)
        claimed = {job.id: Claimed(job, attempt, is_probe) for job, attempt in begun}
        return [claimed.pop(job_id, None) for job_id in job_ids]
