"""The loop of periodic tasks that every worker process has. A lease lets one worker at a time run them.

No worker is special: if the holder dies, the lease runs out and another worker takes over.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from functools import partial
from threading import Event, Thread
from time import monotonic
from typing import Final, Protocol

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
from worker.maintenance.clock_set_back import ClockSetBack
from worker.maintenance.lease import Lease
from worker.maintenance.sqlite_clock import Timekeeper
from worker.maintenance.task import NoAnswer, Task
from worker.registration import WorkerRegistration

TICK = 1.0
LEAST_PAUSE = 0.1
BATCH_SECONDS = 0.02
"""Pause after a wake-up: clients who wait for the end that caused it come first, and more ends are likely to follow."""
LEASE = timedelta(seconds=4)
RENEW_EVERY = 1.0
FOLLOW_EVERY = 0.25  # below a tick: a call that ends wakes the loop, and its follow-ups should run soon
PRUNE_EVERY = 60.0
ADD_UP_EVERY = 600.0

_PERIODIC_TASKS: Final[AbstractSet[PeriodicTask]] = frozenset(PeriodicTask)

log = get_logger(__name__)


class NetworkTask(Protocol):
    """A periodic task that waits for the provider. It stops early once `stopping` is set, and may raise `NoAnswer`."""

    every: timedelta

    def run_once(self, now: datetime, stopping: Event) -> int:
        """Run it and return how much was done."""


class Maintenance:
    """Runs each task when it is due, while this worker holds the lease."""

    def __init__(
        self,
        database: Database,
        registration: WorkerRegistration,
        task_queue: TaskQueue,
        notifier: Notifier,
        *,
        provider_limit: ProviderLimitSettings,
        worker_timeout: timedelta,
        retention: timedelta,
        max_wait: MaxLogWait,
        attempts_kept: timedelta = timedelta(days=400),
        delivery_slots: int = 0,
        outcome_files: rescuer.OutcomeFiles | None = None,
        network_tasks: Mapping[PeriodicTask, NetworkTask] | None = None,
    ) -> None:
        """Create the loop. `outcome_files` hold outcomes of calls that must not count as lost."""
        self._registration = registration
        self._clock = database.clock
        self._database = database
        self._worker_timeout = worker_timeout
        self._provider_limit = provider_limit.name
        self._lease = Lease(database, "maintenance", LEASE)
        self._leased: tuple[str, float] | None = None  # to which worker, and since when at the latest
        self._wake = Event()
        self._stopping = Event()
        self._thread = Thread(target=self._loop, daemon=True)
        scheduler, lost, lost_deliveries = FairScheduler(), LostMessages(), LostMessages()
        kept = max(attempts_kept, retention)

        def rescue(now: datetime) -> int:
            def is_steady() -> bool:
                return registration.is_steady(worker_timeout)

            return rescuer.run_once(
                database,
                task_queue,
                notifier,
                now,
                worker_timeout,
                max_wait=max_wait,
                is_steady=is_steady,
                outcome_files=outcome_files,
            )

        def enqueue(now: datetime) -> int:
            return enqueuer.run_once(
                database, task_queue, scheduler, lost, provider_limit, now, worker_timeout=worker_timeout
            )

        def enqueue_deliveries(now: datetime) -> int:
            return deliveries.enqueue(database, task_queue, lost_deliveries, now, worker_timeout, delivery_slots)

        self._tasks = [
            Task(PeriodicTask.RESCUER, TICK, rescue),
            Task(
                PeriodicTask.DEADLINES,
                TICK,
                partial(deadlines.run_once, database, notifier, provider_limit=provider_limit.name),
                most=deadlines.AT_ONCE,
            ),
            Task("clock set back", TICK, ClockSetBack(database).run_once),
            Task(PeriodicTask.FOLLOW_UPS, FOLLOW_EVERY, partial(follow_ups.run_once, database, notifier)),
            Task(PeriodicTask.ENQUEUER, 0, enqueue),
            Task(PeriodicTask.DELIVERY_RESCUER, TICK, partial(deliveries.rescue, database, task_queue)),
            Task(PeriodicTask.DELIVERY_ENQUEUER, 0, enqueue_deliveries),
            Task("pruner", PRUNE_EVERY, partial(pruner.run_once, database, retention=retention), most=pruner.BATCH),
            # each run adds up the attempts of one key
            Task("attempts", ADD_UP_EVERY, partial(pruner.add_up_attempts, database, kept=kept), most=1),
            Task(
                "event pruner",
                PRUNE_EVERY,
                partial(deliveries.prune, database, retention=retention),
                most=deliveries.PRUNED_AT_ONCE,
            ),
        ]
        if database.is_sqlite:
            keeper = Timekeeper(database)
            self._tasks.append(Task("timekeeper", sqlite_clock.EVERY, lambda _: bool(keeper.run_once())))
        for name, each in (network_tasks or {}).items():
            every = each.every.total_seconds()
            due_at = monotonic() + every
            run_once = partial(each.run_once, stopping=self._stopping)
            self._tasks.append(Task(name, every, run_once, waits_for_network=True, due_at=due_at))

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the task at hand, or after the request at hand of a task that waits for the network."""
        self._stopping.set()
        self._wake.set()

    def wake(self) -> None:
        """Look for due jobs now, as a slot has come free."""
        self._wake.set()

    def _loop(self) -> None:
        pause = Event()
        while not self._stopping.is_set():
            self.run_once()
            pause.wait(LEAST_PAUSE)
            if self._wake.wait(max(0.0, min(TICK, self._lease.seconds_of_others or TICK) - LEAST_PAUSE)):
                pause.wait(BATCH_SECONDS)
            self._wake.clear()

    def run_once(self) -> None:
        """Run the tasks that are due and have work, if the lease is ours. One that fails is run again next time."""
        found = with_work = self._look() if self._has_lease() else frozenset()
        if self._leased is None:
            return
        for task in self._tasks:
            has_work = task.name not in _PERIODIC_TASKS or task.name in (found if task.waits_for_network else with_work)
            if task.is_running or monotonic() < task.due_at or not has_work:
                continue
            if task.waits_for_network:
                task.is_running = True
                Thread(target=self._run_apart, args=(task,), daemon=True).start()
                continue
            task.due_at = monotonic() + task.every
            done = self._run(task) or 0
            if done:
                with_work = _PERIODIC_TASKS  # there may be work now, such as the follow-ups of a job that was ended
            if done >= task.most:
                task.due_at = 0.0
                self._wake.set()

    def _run_apart(self, task: Task) -> None:
        done = None
        try:
            done = self._run(task)
        finally:
            task.end(monotonic(), has_failed=done is None)

    def _run(self, task: Task) -> int | None:
        """Return how much was done, or None if it failed."""
        try:
            return task.run(self._clock())
        except NoAnswer as error:
            log.warning("maintenance failed", task=task.name, error=str(error))
        except Exception as error:  # one task that fails must not end the others
            log.warning("maintenance failed", task=task.name, error=type(error).__name__, exc_info=True)
        return None

    def _look(self) -> AbstractSet[PeriodicTask]:
        """Return the tasks for which there may be work: all of them if that cannot be read."""
        try:
            with self._database.read() as tx:
                return tasks_with_work(tx, self._clock(), self._worker_timeout, self._provider_limit)
        except SQLAlchemyError as error:
            log.warning("maintenance failed", task="look", error=type(error).__name__)
            return _PERIODIC_TASKS

    def _has_lease(self) -> bool:
        """Return whether the lease is ours for some seconds more."""
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
