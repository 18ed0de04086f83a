"""Run a plan: start the dependencies, migrate, then start the servers; stop in the opposite order.

`cli.up.plan` decides which programs a plan has.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

import httpx

from cli.errors import CommandFailed
from cli.up.console import UpConsole
from cli.up.supervisor import Backoff, ProcessObserver, Program, StopSignal, Supervisor, describe_exit

DEPENDENCY_SECONDS = 30.0
READY_SECONDS = 60.0
POLL_SECONDS = 0.1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Dependency:
    """A program that the servers need, and a check of whether it is up."""

    program: Program
    is_up: Callable[[], Awaitable[bool]]


@dataclass(frozen=True)
class Plan:
    """The programs that `up` starts. The servers are stopped in their order here, then the dependencies.

    `show_ready` is called once everything is ready. `calls_in_flight` returns the number of calls that a stop has to
    wait for, or None if that is unknown.
    """

    dependencies: Sequence[Dependency]
    migrate: Program
    servers: Sequence[Program]
    readiness_url: str
    show_ready: Callable[[], None]
    calls_in_flight: Callable[[], int | None]
    grace_seconds: float
    backoff: Backoff = field(default_factory=Backoff)
    ready_seconds: float = READY_SECONDS


async def run(plan: Plan, console: UpConsole) -> None:
    """Run `plan` until a stop signal is received. No process is left behind.

    Raises:
        CommandFailed: a dependency did not start, or the migration failed.
    """
    stop_signal = on_stop_signals()
    supervisor = Supervisor(ProcessObserver(console.line, console.note), plan.backoff)
    startup = asyncio.create_task(_start(plan, supervisor, console))
    stop = asyncio.create_task(stop_signal.stop.wait())
    try:
        await asyncio.wait({startup, stop}, return_when=asyncio.FIRST_COMPLETED)
        if startup.done():
            startup.result()
            await stop
        console.note(await _stop_message(plan))
    finally:
        stop.cancel()
        startup.cancel()
        await asyncio.gather(startup, return_exceptions=True)
        names = [program.name for program in plan.servers]
        names += [dependency.program.name for dependency in plan.dependencies]
        await supervisor.stop(names, stop_signal)


def on_stop_signals(force: signal.Signals | None = None) -> StopSignal:
    """Catch this process's stop signals from now on. The signal `force` requests stop and force at once."""
    stop_signal = StopSignal()
    loop = asyncio.get_running_loop()
    for each in SIGNALS:
        if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN:  # nohup ignores it, to outlive a terminal
            loop.add_signal_handler(each, stop_signal.escalate)
    if force is not None:
        loop.add_signal_handler(force, stop_signal.force_stop)
    return stop_signal


async def _start(plan: Plan, supervisor: Supervisor, console: UpConsole) -> None:
    for dependency in plan.dependencies:
        supervisor.keep_running(dependency.program)
    status = await supervisor.run_once(plan.migrate)
    if status != 0:
        raise CommandFailed(f"{plan.migrate.name} {describe_exit(status)}; its own lines above say why")
    for dependency in plan.dependencies:
        await _wait_until_up(dependency)
    for program in plan.servers:
        supervisor.keep_running(program)
    await _wait_until_ready(plan, console)
    plan.show_ready()


async def _wait_until_up(dependency: Dependency) -> None:
    give_up_at = monotonic() + DEPENDENCY_SECONDS
    while not await dependency.is_up():
        if monotonic() >= give_up_at:
            raise CommandFailed(f"{dependency.program.name} did not come up within {DEPENDENCY_SECONDS:g} s")
        await asyncio.sleep(POLL_SECONDS)


async def _wait_until_ready(plan: Plan, console: UpConsole) -> None:
    """Poll until the API is ready. After `ready_seconds`, print what is missing whenever that changes."""
    note_from = monotonic() + plan.ready_seconds
    noted = None
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        while (missing := await _missing(client, plan.readiness_url)) is not None:
            if monotonic() >= note_from and missing != noted:
                console.note(f"not ready after {plan.ready_seconds:g} s: {missing}; still waiting")
                noted = missing
            await asyncio.sleep(POLL_SECONDS)


async def _missing(client: httpx.AsyncClient, url: str) -> str | None:
    """Return what keeps the API from being ready, in its own words. None if it is ready."""
    try:
        answer = await client.get(url)
    except httpx.TransportError as error:
        return f"the API does not answer ({type(error).__name__})"
    if answer.status_code == 200:
        return None
    try:
        return f"missing: {', '.join(answer.json()['missing'])}"
    except (ValueError, KeyError, TypeError):
        return f"{url} answers {answer.status_code}"


async def _stop_message(plan: Plan) -> str:
    in_flight = await asyncio.to_thread(plan.calls_in_flight)
    if in_flight == 0:
        return "stopping"
    calls = "calls" if in_flight is None else f"{in_flight} call{'s' if in_flight > 1 else ''}"
    return f"stopping: {calls} may finish, up to {plan.grace_seconds:g} s; Ctrl-C again to hand them back now"
