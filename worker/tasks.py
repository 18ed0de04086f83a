"""What Celery calls; tasks decide nothing."""

from celery import Celery

from jobs.dispatch import DELIVER, EXECUTE
from worker.process import WorkerProcess


def register_tasks(app: Celery, process: WorkerProcess) -> None:
    """Bind the tasks to this process's parts."""

    @app.task(name=EXECUTE, ignore_result=True)  # type: ignore[untyped-decorator]  # Celery has no types
    def execute(job_id: str) -> None:
        process.hearing.took()
        try:
            process.executor.run(job_id)
        finally:
            process.slots.freed()

    @app.task(name=DELIVER, ignore_result=True)  # type: ignore[untyped-decorator]  # Celery has no types
    def deliver(delivery_id: str) -> None:
        process.hearing.took()
        try:
            process.sender.answer(delivery_id)
        finally:
            process.slots.freed()
