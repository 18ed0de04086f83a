"""The course of an `up`: services first, then the schema, then the servers; back in the opposite order.

What is started is a plan, made by `cli.up.plan`; this module only knows when.
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

SERVICE_SECONDS = 30.0
READY_SECONDS = 60.0
LOOK_SECONDS = 0.1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Service:
    """A program that others need, and how to see that it is up."""

    program: Program
    is_up: Callable[[], Awaitable[bool]]


@dataclass(frozen=True)
class Plan:
    """All that an `up` starts. `servers` are stopped in their order, then the services.

    `announce` is called once all is ready; `calls_in_flight` says how many calls a stop has to wait for, None when
    it cannot tell.
    """

    services: Sequence[Service]
    migrate: Program
    servers: Sequence[Program]
    readiness_url: str
    announce: Callable[[], None]
    calls_in_flight: Callable[[], int | None]
    grace_seconds: float
    backoff: Backoff = field(default_factory=Backoff)
    ready_seconds: float = READY_SECONDS


async def run(plan: Plan, console: UpConsole) -> None:
    """Run `plan` until a signal says stop, and leave no process behind.

    Raises:
        CommandFailed: something that all else needs did not start.
    """
    stop_signal = on_stop_signals()
    supervisor = Supervisor(ProcessObserver(console.line, console.note), plan.backoff)
    course = asyncio.create_task(_start(plan, supervisor, console))
    stop = asyncio.create_task(stop_signal.stop.wait())
    try:
        await asyncio.wait({course, stop}, return_when=asyncio.FIRST_COMPLETED)
        if course.done():
            course.result()
            await stop
        console.note(await _stop_message(plan))
    finally:
        stop.cancel()
        course.cancel()
        await asyncio.gather(course, return_exceptions=True)
        names = [program.name for program in plan.servers]
        names += [service.program.name for service in plan.services]
        await supervisor.stop(names, stop_signal)


def on_stop_signals(force: signal.Signals | None = None) -> StopSignal:
    """What this process is told from now on; `hurry` says stop and hurry at once."""
    stop_signal = StopSignal()
    loop = asyncio.get_running_loop()
    for each in SIGNALS:
        if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN:  # nohup asks to outlive the terminal
            loop.add_signal_handler(each, stop_signal.grow)
    if force is not None:
        loop.add_signal_handler(force, stop_signal.become_forced)
    return stop_signal


async def _start(plan: Plan, supervisor: Supervisor, console: UpConsole) -> None:
    for service in plan.services:
        supervisor.keep(service.program)
    status = await supervisor.run_once(plan.migrate)
    if status != 0:
        raise CommandFailed(f"{plan.migrate.name} {describe_exit(status)}; its own lines above say why")
    for service in plan.services:
        await _until_up(service)
    for program in plan.servers:
        supervisor.keep(program)
    await _until_ready(plan, console)
    plan.announce()


async def _until_up(service: Service) -> None:
    give_up_at = monotonic() + SERVICE_SECONDS
    while not await service.is_up():
        if monotonic() >= give_up_at:
            raise CommandFailed(f"{service.program.name} did not come up within {SERVICE_SECONDS:g} s")
        await asyncio.sleep(LOOK_SECONDS)


async def _until_ready(plan: Plan, console: UpConsole) -> None:
    """Ask until the API says that all is there; what is missing after a while is said once, and asking goes on."""
    complain_at = monotonic() + plan.ready_seconds
    told = None
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        while (missing := await _missing(client, plan.readiness_url)) is not None:
            if monotonic() >= complain_at and missing != told:
                console.note(f"not ready after {plan.ready_seconds:g} s: {missing}; still waiting")
                told = missing
            await asyncio.sleep(LOOK_SECONDS)


async def _missing(client: httpx.AsyncClient, url: str) -> str | None:
    """What keeps the API from being ready, in its own words; None when nothing does."""
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
