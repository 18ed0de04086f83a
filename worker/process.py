"""The parts of one worker process, and their life inside Celery's.

Celery's own time limits and soft shutdown do nothing on the gevent pool, so the drain is ours: at the first signal
no more is claimed and running calls may finish within the grace; what is left then is handed back.
"""

import signal
import time
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import gevent
from celery import Celery, bootsteps
from celery.signals import worker_init, worker_shutting_down
from celery.worker import state

from jobs import open_files
from jobs.dispatch import HEADROOM, Dispatcher
from jobs.events import Announcer, connect
from jobs.garbage import collect_rarely
from jobs.models import Catalogue
from jobs.outbox import Outbox
from jobs.sealing import VARIABLE, Seal
from jobs.settings import Settings
from jobs.store.database import Database
from jobs.store.lanes import LaneSettings, probe_now
from jobs.store.reconciliation import Patience
from jobs.telemetry import get_logger
from worker.calls import Calls
from worker.consumer import FreeSlots
from worker.executor import Executor
from worker.heartbeat import Heartbeat
from worker.identity import Identity
from worker.lane import LaneKeeper
from worker.live import LiveLog
from worker.maintenance import rescuer
from worker.maintenance.canceller import Canceller
from worker.maintenance.eraser import Eraser
from worker.maintenance.loop import Maintenance
from worker.maintenance.patrol import Patrol
from worker.maintenance.provider_log import ProviderLog
from worker.maintenance.reconciler import Reconciler
from worker.provider.client import ProviderClient
from worker.provider.line import AbortReason
from worker.settlement import Policy
from worker.webhook_post import Poster
from worker.webhook_sender import WebhookSender

FILES_PER_CALL = 1
OTHER_FILES = 200
RECORDING_SECONDS = 10.0
ALONE = {"without_mingle": True, "without_gossip": True}
"""Options of Celery's: no talk with other workers, of which we make no use. Each start of its consumer, and each new
connection to the broker, would ask them for their news and wait a second for it, deaf to every bell meanwhile."""

log = get_logger(__name__)


class WorkerProcess:
    """Everything that one worker process is made of; nothing is opened before `start`."""

    def __init__(self, settings: Settings, app: Celery) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        self.calls = Calls(on_end=self._slot_came_free)
        self.identity = Identity(self.database, settings.worker_concurrency)
        self.dispatcher = Dispatcher(app)
        self.lane = LaneSettings.from_settings(settings)
        self.catalogue = Catalogue(settings.models)
        self.patience = Patience.from_settings(settings)
        self.slots = FreeSlots()
        self.seal = Seal(settings.encryption_keys)

    @cached_property
    def redis(self) -> Any:
        """The Redis client, connected at first use."""
        return connect(self.settings.redis)

    @cached_property
    def announcer(self) -> Announcer:
        """Tells the other processes what happened, and rings for the webhooks of it."""
        return Announcer(self.redis, Outbox(self.database, self.dispatcher).jobs_ended)

    @cached_property
    def provider(self) -> ProviderClient:
        """Whom to call."""
        return ProviderClient(
            self.settings.provider_base_url,
            self.settings.provider_api_key,
            transport=self.settings.provider_transport,
            dialect=self.settings.dialect,
            stall=self.settings.stall,
        )

    @cached_property
    def live(self) -> LiveLog:
        """Keeps what streaming calls tell."""
        return LiveLog(self.database, self.announcer)

    @cached_property
    def executor(self) -> Executor:
        """Runs attempts."""
        return Executor(
            self.database,
            self.provider,
            Policy.from_settings(self.settings),
            identity=self.identity,
            lane=LaneKeeper(self.database, self.lane, self.settings.worker_timeout, lambda: datetime.now(UTC)),
            calls=self.calls,
            live=self.live,
            catalogue=self.catalogue,
            dispatcher=self.dispatcher,
            announcer=self.announcer,
            seal=self.seal,
        )

    @cached_property
    def sender(self) -> WebhookSender:
        """Delivers webhooks."""
        return WebhookSender(
            self.database,
            Poster.create(self.settings.receivers),
            self.seal,
            identity=self.identity,
            announcer=self.announcer,
            slots=self.settings.webhook_concurrency,
            on_end=self._slot_came_free,
        )

    @cached_property
    def heartbeat(self) -> Heartbeat:
        """Keeps the worker's row fresh."""

        def take_back(worker_id: str) -> int:
            now = datetime.now(UTC)
            parts = (self.database, self.dispatcher, self.announcer)
            return rescuer.rescue_orphans(*parts, now, worker_id, self.calls.attempts)

        return Heartbeat(self.database, self.identity, self.calls, self.redis, take_back)

    @cached_property
    def maintenance(self) -> Maintenance:
        """Keeps every job moving."""
        return Maintenance(
            self.database,
            self.identity,
            self.dispatcher,
            self.announcer,
            lane=self.lane,
            worker_timeout=self.settings.worker_timeout,
            retention=timedelta(days=self.settings.retention_days),
            patience=self.patience,
            delivery_slots=self.settings.webhook_concurrency,
        )

    @cached_property
    def patrols(self) -> list[Patrol]:
        """The duties that ask the provider: what lost answers cost, to stop what nobody wants, and to keep nothing."""
        reconciler = Reconciler(
            self.database,
            self.dispatcher,
            self.announcer,
            ProviderLog(self.settings.logs_url, self.settings.provider_api_key),
            lane=self.lane.name,
            after=timedelta(seconds=self.settings.reconcile_after_seconds),
        )
        canceller = Canceller(self.database, self.provider.cancel, self.catalogue)
        eraser = Eraser(self.database, self.provider.delete)
        return [
            Patrol("reconciliation", self.database, self.identity, reconciler.run_once, every=reconciler.every),
            Patrol("cancellation", self.database, self.identity, canceller.run_once, every=canceller.every),
            Patrol("erasure", self.database, self.identity, eraser.run_once, every=eraser.every),
        ]

    def _slot_came_free(self) -> None:
        self.maintenance.wake()

    def start(self) -> None:
        """Register and begin to work."""
        collect_rarely()
        raise_file_limit(self.settings.worker_concurrency + self.settings.webhook_concurrency)
        if not self.settings.encryption_keys:
            log.warning("webhooks are not signed", missing=VARIABLE)
        if self.settings.sends_in_clear:
            log.warning("provider is plain http: its key, prompts and answers can be read", host=self.settings.lane)
        self.heartbeat.start()
        self.live.start()
        with self.database.begin() as tx:
            probe_now(tx, self.lane.name, datetime.now(UTC))
        _ = self.sender
        self.maintenance.start()
        for patrol in self.patrols:
            patrol.start()

    def begin_drain(self, *, at_once: bool) -> None:
        """Claim no more; `at_once` also hands back what is running."""
        self.identity.draining = True
        if at_once:
            self.calls.abort_all(AbortReason.RELEASED)
            self.sender.abort_all()

    def finish(self, grace: float) -> None:
        """Wait for the running calls up to `grace` seconds, hand back the rest, and leave."""
        self.identity.draining = True
        if self.calls:
            log.info("draining", calls=len(self.calls), grace=grace)
        if not self._empty_within(grace):
            log.warning("handing back", calls=len(self.calls), deliveries=len(self.sender))
            self.calls.abort_all(AbortReason.RELEASED)
            self.sender.abort_all()
            self._empty_within(RECORDING_SECONDS)
        self.maintenance.stop()
        for patrol in self.patrols:
            patrol.stop()
        self.live.stop()
        self.heartbeat.stop()

    def _empty_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (self.calls or self.sender) and time.monotonic() < until:
            time.sleep(0.05)
        return not (self.calls or self.sender)


def install(app: Celery, process: WorkerProcess) -> None:
    """Tie the process's life to the Celery worker's."""

    class CallsStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
        """Started after the pool, stopped before it."""

        requires = ("celery.worker.components:Pool",)

        def start(self, parent: Any) -> None:
            # the pool is a little larger than the slots, so that it never blocks Celery's consumer
            parent.max_concurrency = max(1, parent.pool.num_processes - HEADROOM)
            process.identity.concurrency = parent.max_concurrency
            process.start()
            # Celery's own handler waits for the pool inside the signal handler, where gevent lets nobody wait
            gevent.signal_handler(signal.SIGQUIT, hand_back)

        def stop(self, _parent: Any) -> None:
            process.finish(process.settings.shutdown_grace_seconds)

        def terminate(self, _parent: Any) -> None:
            process.finish(grace=0)

    app.steps["worker"].add(CallsStep)
    process.slots.install(app)

    def hand_back() -> None:
        process.begin_drain(at_once=True)
        state.should_stop = state.should_stop or 0

    def shutting_down(how: str = "Warm", **_: Any) -> None:
        process.begin_drain(at_once=how.lower() != "warm")

    def keep_to_itself(sender: Any, **_: Any) -> None:
        sender.options.update(ALONE)

    worker_shutting_down.connect(shutting_down, weak=False)
    worker_init.connect(keep_to_itself, weak=False)


def raise_file_limit(calls: int) -> None:
    """Raise the soft file limit to the hard one; each call needs a socket."""
    needed = calls * FILES_PER_CALL + OTHER_FILES
    limit = open_files.raise_file_limit(needed)
    if limit < needed:
        log.warning("file limit is below the concurrency", limit=limit, needed=needed)
