"""Celery's gevent pool without time limits and without termination of tasks.

Celery would kill the greenlet, and the billed call with it. A call ends at its deadline, by a cancellation or at
shutdown, and each of them records its outcome.
"""

from typing import Any

from celery.concurrency.gevent import TaskPool

from jobs.telemetry import get_logger

log = get_logger(__name__)


class UninterruptedPool(TaskPool):  # type: ignore[misc]  # Celery has no types
    """A pool whose tasks run to their own end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Warn about `timeout` and `soft_timeout` of the command line, which have no effect."""
        super().__init__(*args, **kwargs)
        if kwargs.get("timeout") or kwargs.get("soft_timeout"):
            log.warning("Celery's time limits have no effect: set BACKBURNER_CALL_DEADLINE_SECONDS")
        self.timeout: float | None = None

    def on_apply(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:  # noqa: ARG002  # see below
        """Run a task without the time limit that its message may name."""
        return super().on_apply(*args, **kwargs)

    def terminate_job(self, pid: int, signal: object = None) -> None:  # noqa: ARG002  # Celery's names
        """Let the task run on."""
        log.warning("termination of a task refused")
