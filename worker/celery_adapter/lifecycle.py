"""Starts and stops the parts of a worker process together with Celery's worker.

Celery's own time limits and soft shutdown have no effect on the gevent pool, and its signal handlers wait for the pool
inside the handler, where gevent allows no waiting. So the process drains by itself: `WorkerProcess.finish`.
"""

import signal
from typing import Any

import gevent
from celery import Celery, bootsteps
from celery.signals import worker_init, worker_shutting_down
from celery.worker import state

from jobs.celery_app import HEADROOM
from jobs.telemetry import get_logger
from worker.celery_adapter.options import refuse_idle_worker, set_options
from worker.process import WorkerProcess

log = get_logger(__name__)


def install(app: Celery, process: WorkerProcess) -> None:
    """Tie the process's life to that of the Celery worker."""

    class CallsStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
        """Starts after the pool and stops before it."""

        requires = ("celery.worker.components:Pool",)

        def __init__(self, parent: Any, **options: Any) -> None:
            refuse_idle_worker(parent, app, process.names)
            super().__init__(parent, **options)

        def start(self, parent: Any) -> None:
            # the pool is a little larger than the slots, so that it never blocks Celery's consumer
            parent.max_concurrency = max(1, parent.pool.num_processes - HEADROOM)
            process.take_slots(parent)
            process.start()
            gevent.signal_handler(signal.SIGQUIT, release_calls)
            gevent.signal_handler(signal.SIGINT, interrupted)

        def stop(self, _parent: Any) -> None:
            process.finish()

        def terminate(self, _parent: Any) -> None:
            process.begin_drain(at_once=True)
            process.finish()

    app.steps["worker"].add(CallsStep)
    process.slots.install(app)

    def stop(*, at_once: bool) -> None:
        process.begin_drain(at_once=at_once)
        process.shutdown.begin()

    def interrupted() -> None:
        if process.registration.draining:
            release_calls()
            return
        log.info("stopping; Ctrl-C again hands back what runs")
        stop(at_once=False)
        state.should_stop = state.should_stop or 0

    def release_calls() -> None:
        stop(at_once=True)
        state.should_stop = state.should_stop or 0

    def shutting_down(how: str = "Warm", **_: Any) -> None:
        stop(at_once=how.lower() != "warm")

    def created(sender: Any, **_: Any) -> None:
        set_options(sender, app)

    worker_shutting_down.connect(shutting_down, weak=False)
    worker_init.connect(created, weak=False)
