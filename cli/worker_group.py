"""Several worker processes under one: they share the load, and the load alone. Each is a Celery worker of its own.

A process is one core's worth of Python; each holds `BACKBURNER_WORKER_CONCURRENCY` calls.
"""

import asyncio
import signal
from collections.abc import Sequence

from cli.up import commands
from cli.up.console import Screen
from cli.up.startup import hear_signals
from cli.up.stop_progress import recording
from cli.up.supervisor import Listener, Program, Supervisor
from jobs.settings import Settings, load_settings


def run_workers(processes: int, extra: Sequence[str]) -> None:
    """Keep so many workers running until a signal says stop; `extra` goes to Celery as it stands.

    Raises:
        SettingsError: a variable is wrong.
    """
    settings = load_settings()
    workers = [_worker(number, extra, settings) for number in range(1, processes + 1)]
    asyncio.run(_run(workers, Screen()))


def _worker(number: int, extra: Sequence[str], settings: Settings) -> Program:
    name = f"worker{number}"
    return Program(
        name,
        commands.worker(("--hostname", f"{name}@%h", *extra)),
        commands.environment(),
        stop_seconds=settings.shutdown_grace_seconds + commands.WORKER_MARGIN_SECONDS,
        hurry=signal.SIGQUIT,  # Celery's word for ending without waiting: what runs is handed back
        unfinished=lambda: recording(settings),
    )


async def _run(workers: Sequence[Program], screen: Screen) -> None:
    impatience = hear_signals(hurry=signal.SIGQUIT)
    supervisor = Supervisor(Listener(screen.line, screen.note))
    for worker in workers:
        supervisor.keep(worker)
    await impatience.stop.wait()
    await asyncio.gather(*(supervisor.stop([worker.name], impatience) for worker in workers))
