"""The parts of one worker process, their start and their drain.

At the first signal the process claims no more, and running calls may finish within the grace period. What is left
after that is released to other workers.
"""

import os
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from threading import Lock
from typing import Any

from celery import Celery

from jobs.broker_names import Names
from jobs.cancel_reason import AbortReason
from jobs.encryption import VARIABLE, Cipher
from jobs.file_limit import raise_file_limit
from jobs.model_catalog import Catalogue
from jobs.notifications import Notifier
from jobs.process_tuning import collect_rarely
from jobs.redis_url import connect
from jobs.settings import Settings
from jobs.store.database import DATABASE_ERRORS, Database
from jobs.store.pending_work import PeriodicTask
from jobs.store.provider_limits import ProviderLimitSettings, probe_now
from jobs.store.reconciliation import MaxLogWait
from jobs.task_queue import TaskQueue
from jobs.telemetry import get_logger
from jobs.webhooks.enqueue import DeliveryEnqueuer
from worker.capacity import Capacity
from worker.celery_adapter.consumer import FreeSlots
from worker.celery_adapter.shutdown import Shutdown
from worker.celery_adapter.subscribed_queues import SubscribedQueues
from worker.executor import Executor
from worker.heartbeat import Heartbeat
from worker.in_flight import InFlightCalls
from worker.live_stream import LiveLog
from worker.maintenance import rescuer
from worker.maintenance.canceller import Canceller
from worker.maintenance.eraser import Eraser
from worker.maintenance.loop import Maintenance, NetworkTask
from worker.maintenance.provider_calls_log import ProviderLog
from worker.maintenance.reconciler import Reconciler
from worker.outcome import Policy
from worker.pending_outcomes import PendingOutcomes
from worker.provider.client import ProviderClient
from worker.provider_limiter import ProviderLimiter
from worker.registration import WorkerRegistration
from worker.startup import retry_at_startup
from worker.webhooks.http_post import Poster
from worker.webhooks.sender import WebhookSender

OTHER_FILES = 200
RECORDING_SECONDS = 10.0
REPORT_SECONDS = 10.0
LOOK_SECONDS = 0.05

log = get_logger(__name__)


class WorkerProcess:
    """The parts of one worker process. Nothing is opened before `start`."""

    def __init__(self, settings: Settings, app: Celery, database: Database, names: Names) -> None:
        self.settings = settings
        self.database = database
        self.names = names
        self.calls = InFlightCalls(on_end=self._slot_came_free)
        self.subscribed_queues = SubscribedQueues(names)
        self.pending_outcomes = PendingOutcomes(settings.data_dir)
        self.registration = WorkerRegistration(
            self.database,
            settings.worker_concurrency,
            subscribed_queues=self.subscribed_queues,
            pending_outcomes=self.pending_outcomes,
        )
        self.capacity = Capacity(self.registration, self.calls)
        self.task_queue = TaskQueue(app, self._get_names)
        self.provider_limit = ProviderLimitSettings.from_settings(settings)
        self.catalogue = Catalogue(settings.models)
        self.max_wait = MaxLogWait.from_settings(settings)
        self.slots = FreeSlots(self.subscribed_queues, self._consumer_subscribed)
        self.cipher = Cipher(settings.encryption_keys)
        self._ends_at_once = False
        self.shutdown = Shutdown(self.finish, self.holds_anything)
        self._finishing = Lock()
        self._is_finished = False

    @cached_property
    def redis(self) -> Any:
        """The Redis client, connected at first use."""
        return connect(self.settings.redis)

    @cached_property
    def notifier(self) -> Notifier:
        """Notifies other processes of what happened, and enqueues the webhook deliveries for it."""
        return Notifier(self.redis, self._get_names, DeliveryEnqueuer(self.database, self.task_queue).enqueue)

    @cached_property
    def provider(self) -> ProviderClient:
        """The client that calls the provider."""
        return ProviderClient(
            self.settings.provider_base_url,
            self.settings.provider_api_key,
            transport=self.settings.provider_transport,
            dialect=self.settings.dialect,
            stall=self.settings.stall,
            clock=self.database.wall_clock,
        )

    @cached_property
    def live(self) -> LiveLog:
        """Commits the events of streaming calls."""
        return LiveLog(self.database, self.notifier)

    @cached_property
    def executor(self) -> Executor:
        """Runs attempts."""
        return Executor(
            self.database,
            self.provider,
            Policy.from_settings(self.settings),
            registration=self.registration,
            capacity=self.capacity,
            provider_limit=ProviderLimiter(
                self.database, self.provider_limit, self.settings.worker_timeout, self.database.clock
            ),
            calls=self.calls,
            live=self.live,
            pending_outcomes=self.pending_outcomes,
            catalogue=self.catalogue,
            task_queue=self.task_queue,
            notifier=self.notifier,
            cipher=self.cipher,
        )

    @cached_property
    def sender(self) -> WebhookSender:
        """Sends webhook deliveries."""
        return WebhookSender(
            self.database,
            Poster.create(self.settings.destination_policy, self.database.wall_clock),
            self.cipher,
            registration=self.registration,
            notifier=self.notifier,
            slots=self.settings.webhook_concurrency,
            on_end=self._slot_came_free,
        )

    @cached_property
    def heartbeat(self) -> Heartbeat:
        """Keeps the worker's row fresh."""

        def rescue_orphans(worker_id: str) -> int:
            return rescuer.rescue_orphans(
                self.database,
                self.task_queue,
                self.notifier,
                self.database.clock(),
                worker_id,
                self.calls,
                max_wait=self.max_wait,
                outcome_files=self.executor.orphaned_outcomes,
            )

        return Heartbeat(self.database, self.registration, self.calls, self.redis, self.names.stop, rescue_orphans)

    @cached_property
    def maintenance(self) -> Maintenance:
        """Runs the periodic tasks that keep every job moving."""
        return Maintenance(
            self.database,
            self.registration,
            self.task_queue,
            self.notifier,
            provider_limit=self.provider_limit,
            worker_timeout=self.settings.worker_timeout,
            retention=timedelta(days=self.settings.retention_days),
            max_wait=self.max_wait,
            attempts_kept=timedelta(days=self.settings.attempts_days),
            delivery_slots=self.settings.webhook_concurrency,
            outcome_files=self.executor.orphaned_outcomes,
            network_tasks=self._network_tasks(),
        )

    def _network_tasks(self) -> Mapping[PeriodicTask, NetworkTask]:
        """Return the periodic tasks that ask the provider: costs of lost answers, cancellations and deletions."""
        reconciler = Reconciler(
            self.database,
            self.task_queue,
            self.notifier,
            ProviderLog(self.settings.logs_url, self.settings.provider_api_key),
            provider_limit=self.provider_limit.name,
            after=timedelta(seconds=self.settings.reconcile_after_seconds),
        )
        return {
            PeriodicTask.RECONCILIATION: reconciler,
            PeriodicTask.CANCELLATION: Canceller(self.database, self.provider.cancel, self.catalogue),
            PeriodicTask.ERASURE: Eraser(self.database, self.provider.delete),
        }

    def _get_names(self) -> Names:
        return self.names

    def _consumer_subscribed(self) -> None:
        self.heartbeat.heartbeat_soon()

    def _slot_came_free(self) -> None:
        self.maintenance.wake()

    def start(self) -> None:
        """Register and begin to work."""
        collect_rarely()
        if not self.settings.encryption_keys:
            log.warning("webhooks are not signed", missing=VARIABLE)
        if self.settings.sends_in_clear:
            log.warning(
                "provider is plain http: its key, prompts and answers can be read", host=self.settings.provider_name
            )
        orphaned_outcomes = self.executor.orphaned_outcomes
        _ = self.sender  # created now, as another thread reads it: `holds_anything`
        self.shutdown.watch()
        retry_at_startup(orphaned_outcomes.record)
        self.pending_outcomes.start()
        retry_at_startup(self.heartbeat.start)
        self.live.start()
        self._probe_soon()
        self.maintenance.start()

    def _probe_soon(self) -> None:
        """Let a paused provider be probed at once, as this worker may have another key for it."""
        try:
            with self.database.begin(brief_lock_wait=True) as tx:
                probe_now(tx, self.provider_limit.name, self.database.clock())
        except DATABASE_ERRORS as error:  # locked, or away again: the next probe follows at its usual time
            log.warning("provider not probed at once", error=type(error).__name__)

    def take_slots(self, controller: Any) -> None:
        """Take as many slots as Celery's controller of this process has, if that many calls can be held."""

        def apply(slots: int) -> None:
            controller.max_concurrency = slots

        wanted = controller.max_concurrency
        needed = wanted + self.settings.webhook_concurrency + OTHER_FILES
        self.capacity.begin(wanted, raise_file_limit(needed), apply)

    def begin_drain(self, *, at_once: bool) -> None:
        """Claim no more.

        `at_once` also releases what is running, and stops waiting for outcomes that cannot be recorded.
        """
        self.registration.draining = True
        self.pending_outcomes.expect_kill()
        if at_once:
            self._ends_at_once = True
            self.calls.abort_all(AbortReason.RELEASED)
            self.sender.abort_all()

    def holds_anything(self) -> bool:
        """Return whether a job or a delivery is claimed, called, or not recorded yet."""
        return bool(self.calls) or self.executor.is_busy or bool(self.pending_outcomes) or bool(self.sender)

    def finish(self) -> None:
        """Wait for running calls for the grace period, release the rest and stop.

        A second call waits for the first.
        """
        with self._finishing:
            if not self._is_finished:
                self._is_finished = True
                self._drain(self.settings.shutdown_grace_seconds)

    def _drain(self, grace: float) -> None:
        """Hold nothing after `grace` seconds, or at once if the process has to end at once.

        Outcomes of calls that may be billed are waited for until they are recorded, however long that takes. If the
        process has to end at once, it ends here and leaves them as files.
        """
        self.begin_drain(at_once=False)
        if self.calls:
            log.info("draining", calls=len(self.calls), grace=grace)
        if not self._empty_within(grace):
            log.warning("releasing calls", calls=len(self.calls), deliveries=len(self.sender))
            self.calls.abort_all(AbortReason.RELEASED)
            self.sender.abort_all()
            self._empty_within(RECORDING_SECONDS, is_last=True)
            self._await_recorded()
        self.maintenance.stop()
        self.live.stop()
        self.pending_outcomes.stop()
        self.heartbeat.stop()

    def _empty_within(self, seconds: float, *, is_last: bool = False) -> bool:
        until = time.monotonic() + seconds
        while (self.calls or self.sender) and time.monotonic() < until and (is_last or not self._ends_at_once):
            time.sleep(LOOK_SECONDS)
        return not (self.calls or self.sender)

    def _await_recorded(self) -> None:
        logged_at = float("-inf")
        while self.pending_outcomes and not self._ends_at_once:
            if time.monotonic() - logged_at > REPORT_SECONDS:
                logged_at = time.monotonic()
                log.warning("paid answers are not recorded yet, waiting", answers=len(self.pending_outcomes))
            time.sleep(LOOK_SECONDS)
        if not self.pending_outcomes:
            return
        lost = self.pending_outcomes.keep(0)
        log.warning("paid answers left as files", answers=len(self.pending_outcomes), lost=lost)
        sys.stdout.flush()
        sys.stderr.flush()
        # Greenlets that still try to record may be blocked for as long as the database is. The row of this worker
        # stays, so that the next start records these outcomes before their calls count as lost.
        os._exit(os.EX_TEMPFAIL)
