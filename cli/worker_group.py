"""Run several worker processes under one supervisor. Each is a Celery worker of its own; they share only the load.

A Python process uses about one core. Each holds up to `BACKBURNER_WORKER_CONCURRENCY` calls.
"""

import asyncio
import signal
from collections.abc import Sequence

from cli.up import commands
from cli.up.console import UpConsole
from cli.up.startup import on_stop_signals
from cli.up.stop_progress import unrecorded_answers
from cli.up.supervisor import ProcessObserver, Program, Supervisor
from jobs.settings import Settings, load_settings


def run_workers(processes: int, extra: Sequence[str]) -> None:
    """Keep `processes` workers running until a stop signal. `extra` is passed on to Celery.

    Raises:
        SettingsError: a variable is wrong.
    """
    settings = load_settings()
    workers = [_worker(number, extra, settings) for number in range(1, processes + 1)]
    asyncio.run(_run(workers, UpConsole()))


def _worker(number: int, extra: Sequence[str], settings: Settings) -> Program:
    name = f"worker{number}"
    return Program(
        name,
        commands.worker(("--hostname", f"{name}@%h", *extra)),
        commands.environment(),
        stop_seconds=settings.shutdown_grace_seconds + commands.WORKER_MARGIN_SECONDS,
        force=signal.SIGQUIT,  # Celery's signal to end at once; the worker hands its calls back
        unfinished=lambda: unrecorded_answers(settings),
    )


async def _run(workers: Sequence[Program], console: UpConsole) -> None:
    stop_signal = on_stop_signals(force=signal.SIGQUIT)
    supervisor = Supervisor(ProcessObserver(console.line, console.note))
    for worker in workers:
        supervisor.keep_running(worker)
    await stop_signal.stop.wait()
    await asyncio.gather(*(supervisor.stop([worker.name], stop_signal) for worker in workers))
