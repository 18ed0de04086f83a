"""Celery's gevent pool, but for what would end a call: its time limits, and the termination of tasks, have no effect.

Celery kills the greenlet, and with it what the call has bought. A call ends at its deadline, by a cancellation, or at
shutdown, each of which records what it came to.
"""

from typing import Any

from celery.concurrency.gevent import TaskPool

from jobs.telemetry import get_logger

log = get_logger(__name__)


class LastingPool(TaskPool):  # type: ignore[misc]  # Celery has no types
    """A pool whose tasks end by themselves."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """`timeout` and `soft_timeout`, of the command line, are said to have no effect."""
        super().__init__(*args, **kwargs)
        if kwargs.get("timeout") or kwargs.get("soft_timeout"):
            log.warning("Celery's time limits have no effect: set BACKBURNER_CALL_DEADLINE_SECONDS")
        self.timeout: float | None = None

    def on_apply(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:  # noqa: ARG002  # see above
        """Run a task, without the time limit that its message may name."""
        return super().on_apply(*args, **kwargs)

    def terminate_job(self, pid: int, signal: object = None) -> None:  # noqa: ARG002  # Celery's names
        """Let the task go on."""
        log.warning("termination of a task refused")
