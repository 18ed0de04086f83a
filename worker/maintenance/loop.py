"""The one small loop that every worker process runs; a lease keeps them from doing it all at once.

No process is special: when the holder dies, the lease runs out and another worker goes on.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event, Thread
from time import monotonic
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from jobs.notifications import Notifier
from jobs.queue_capacity import LostMessages
from jobs.store.database import Database
from jobs.store.fair_scheduler import FairScheduler
from jobs.store.pending_work import PeriodicTask, tasks_with_work
from jobs.store.provider_limits import ProviderLimitSettings
from jobs.store.reconciliation import MaxLogWait
from jobs.task_queue import TaskQueue
from jobs.telemetry import get_logger
from worker.maintenance import deadlines, deliveries, enqueuer, follow_ups, pruner, rescuer, sqlite_clock
from worker.maintenance.clock_set_back import SetBack
from worker.maintenance.lease import Lease
from worker.maintenance.sqlite_clock import Timekeeper
from worker.registration import WorkerRegistration

TICK = 1.0
LEAST_PAUSE = 0.1
BATCH_SECONDS = 0.02
"""After a wake: who waits for the end that caused it is told first, and other ends are soon to come."""
LEASE = timedelta(seconds=4)
RENEW_EVERY = 1.0
FOLLOW_EVERY = 0.25  # below a tick: a call that ends wakes the loop, and what waited for it need not wait on
PRUNE_EVERY = 60.0
ADD_UP_EVERY = 600.0

_PERIODIC_TASKS: Final[AbstractSet[PeriodicTask]] = frozenset(PeriodicTask)

log = get_logger(__name__)


@dataclass
class Step:
    """One duty and how often it is due, in seconds; one that has done `most` has more to do, and is due at once."""

    name: str
    every: float
    run: Callable[[datetime], int]
    most: float = float("inf")
    due_at: float = 0.0


class Maintenance:
    """Runs each duty when it is due, while this worker holds the lease."""

    def __init__(
        self,
        database: Database,
        registration: WorkerRegistration,
        message: TaskQueue,
        notifier: Notifier,
        *,
        provider_limit: ProviderLimitSettings,
        worker_timeout: timedelta,
        retention: timedelta,
        max_wait: MaxLogWait,
        attempts_kept: timedelta = timedelta(days=400),
        delivery_slots: int = 0,
        ends: rescuer.Ends | None = None,
    ) -> None:
        """`ends` are those of calls that no process has recorded yet, and that are not to be taken for lost."""

        def rescue(now: datetime) -> int:
            def judges() -> bool:
                return registration.is_steady(worker_timeout)

            return rescuer.run_once(
                database, message, notifier, now, worker_timeout, max_wait=max_wait, judges=judges, ends=ends
            )

        scheduler, lost, lost_deliveries, set_back = FairScheduler(), LostMessages(), LostMessages(), SetBack(database)
        self._registration = registration
        self._clock = database.clock
        self._database = database
        self._worker_timeout = worker_timeout
        self._provider_limit = provider_limit.name
        self._with_work: AbstractSet[PeriodicTask] = frozenset()
        self._lease = Lease(database, "maintenance", LEASE)
        self._leased: tuple[str, float] | None = None  # to whom, and since when at the latest
        self._wake = Event()
        self._stopping = False
        self._thread = Thread(target=self._loop, daemon=True)
        self._steps = [
            Step(PeriodicTask.RESCUER, TICK, rescue),
            Step(
                PeriodicTask.DEADLINES,
                TICK,
                lambda now: deadlines.run_once(database, notifier, now, provider_limit.name),
                most=deadlines.AT_ONCE,
            ),
            Step("set back", TICK, set_back.run_once),
            Step(PeriodicTask.FOLLOW_UPS, FOLLOW_EVERY, lambda now: follow_ups.run_once(database, notifier, now)),
            Step(
                PeriodicTask.ENQUEUER,
                0,
                lambda now: enqueuer.run_once(
                    database, message, scheduler, lost, provider_limit, now, worker_timeout=worker_timeout
                ),
            ),
            Step(PeriodicTask.DELIVERY_RESCUER, TICK, lambda now: deliveries.rescue(database, message, now)),
            Step(
                PeriodicTask.DELIVERY_ENQUEUER,
                0,
                lambda now: deliveries.dispatch(
                    database, message, lost_deliveries, now, worker_timeout, delivery_slots
                ),
            ),
            Step("pruner", PRUNE_EVERY, lambda now: pruner.run_once(database, now, retention), most=pruner.BATCH),
            Step(
                "attempts",
                ADD_UP_EVERY,
                lambda now: pruner.add_up_attempts(database, now, max(attempts_kept, retention)),
                most=1,  # those of the next key may follow
            ),
            Step(
                "event pruner",
                PRUNE_EVERY,
                lambda now: deliveries.prune(database, now, retention),
                most=deliveries.PRUNED_AT_ONCE,
            ),
        ]
        if database.is_sqlite:
            keeper = Timekeeper(database)
            self._steps.append(Step("timekeeper", sqlite_clock.EVERY, lambda _: bool(keeper.run_once())))

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the duty at hand."""
        self._stopping = True
        self._wake.set()

    def wake(self) -> None:
        """A slot came free: look for due jobs now."""
        self._wake.set()

    def _loop(self) -> None:
        pause = Event()
        while not self._stopping:
            self.run_once()
            pause.wait(LEAST_PAUSE)
            if self._wake.wait(max(0.0, min(TICK, self._lease.seconds_of_others or TICK) - LEAST_PAUSE)):
                pause.wait(BATCH_SECONDS)
            self._wake.clear()

    def has_work_for(self, task: PeriodicTask) -> bool:
        """Whether this process was the one to do this duty, and there was work for it, when it last looked."""
        return task in self._with_work

    def run_once(self) -> None:
        """Do what is due and has work, if the lease is ours; a duty that fails is done again next time."""
        self._with_work = with_work = self._look() if self._has_lease() else frozenset()
        if self._leased is None:
            return
        for step in self._steps:
            if monotonic() < step.due_at or (step.name in _PERIODIC_TASKS and step.name not in with_work):
                continue
            step.due_at = monotonic() + step.every
            try:
                done = step.run(self._clock())
                if done:
                    with_work = _PERIODIC_TASKS  # there may be now: what waited for a job that was ended, for one
                if done >= step.most:
                    step.due_at = 0.0
                    self._wake.set()
            except Exception as error:  # one duty that fails must not end the others
                log.warning("maintenance failed", task=step.name, error=type(error).__name__, exc_info=True)

    def _look(self) -> AbstractSet[PeriodicTask]:
        """For which duties there may be work; for all of them where that is not known."""
        try:
            with self._database.read() as tx:
                return tasks_with_work(tx, self._clock(), self._worker_timeout, self._provider_limit)
        except SQLAlchemyError as error:
            log.warning("maintenance failed", task="look", error=type(error).__name__)
            return _PERIODIC_TASKS

    def _has_lease(self) -> bool:
        """Whether the lease is ours for some seconds more."""
        holder, asked_at = self._registration.worker_id, monotonic()
        if self._leased is not None and self._leased[0] == holder and asked_at - self._leased[1] < RENEW_EVERY:
            return True
        self._leased = None
        if holder is None:
            return False
        try:
            if self._lease.is_held_by(holder):
                self._leased = holder, asked_at
        except SQLAlchemyError as error:
            log.warning("maintenance failed", task="lease", error=type(error).__name__)
        return self._leased is not None
