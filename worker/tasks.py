"""The Celery tasks. They decide nothing."""

from celery import Celery

from jobs.celery_app import DELIVER, EXECUTE
from jobs.ids import may_be_id
from jobs.telemetry import get_logger
from worker.process import WorkerProcess

log = get_logger(__name__)


def register_tasks(app: Celery, process: WorkerProcess) -> None:
    """Register the tasks of this process."""

    @app.task(name=EXECUTE, ignore_result=True)  # type: ignore[untyped-decorator]  # Celery has no types
    def execute(job_id: str) -> None:
        process.subscribed_queues.took_message()
        try:
            if _is_ours(job_id):
                process.executor.run(job_id)
        finally:
            process.slots.freed()

    @app.task(name=DELIVER, ignore_result=True)  # type: ignore[untyped-decorator]  # Celery has no types
    def deliver(delivery_id: str) -> None:
        process.subscribed_queues.took_message()
        try:
            if _is_ours(delivery_id):
                process.sender.deliver(delivery_id)
        finally:
            process.slots.freed()


def _is_ours(given: object) -> bool:
    """Return whether a message may be ours. Anything but an id is neither looked up nor logged, as it may be huge."""
    if may_be_id(given):
        return True
    log.warning("message dropped", reason="it names no id")
    return False
