"""Keeps child processes alive, and ends them in order: the worker may finish its calls before what it needs goes.

A child that dies is named with its exit status and started again, with a growing pause while it keeps dying.
Children run in sessions of their own, so a terminal's Ctrl-C reaches the supervisor alone, and on a leash
(`cli.up.die_with_parent`), so none outlives it.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic

DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")
HURRIED_SECONDS = 12.0
LONGEST_LINE = 64 * 1024
LAST_WORDS_SECONDS = 1.0
LOOK_SECONDS = 1.0
REPORT_SECONDS = 10.0


@dataclass(frozen=True)
class Program:
    """One child: its name, its command line, and its environment, which is added to ours if it `inherits`.

    `stop_seconds` is how long it may take to end after SIGTERM; `hurry` is what it is sent when the wait is cut short.
    `unfinished` says what it must not be ended amid, however long it takes: None once there is nothing of that.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_seconds: float = 5.0
    force: signal.Signals = signal.SIGTERM
    inherits: bool = True
    unfinished: Callable[[], str | None] | None = None


@dataclass(frozen=True)
class Backoff:
    """Pauses before a restart, in seconds: doubled while the child keeps dying, reset once it has lived a while."""

    first: float = 0.5
    longest: float = 30.0
    healthy_after: float = 60.0


class StopSignal:
    """What the operator's repeated Ctrl-C says: stop, then hurry, then kill."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.force = asyncio.Event()
        self.kill = asyncio.Event()

    def grow(self) -> None:
        """One more signal came."""
        for event in (self.stop, self.force, self.kill):
            if not event.is_set():
                event.set()
                return

    def become_forced(self) -> None:
        """A signal that says both at once."""
        self.stop.set()
        self.force.set()


@dataclass(frozen=True)
class ProcessObserver:
    """Who hears what children write, line by line, and what becomes of them."""

    line: Callable[[str, str], None]
    note: Callable[[str], None]


class Supervisor:
    """The children of this process. One event loop owns it."""

    def __init__(self, observer: ProcessObserver, backoff: Backoff | None = None) -> None:
        self._spawner = _Spawner(observer)
        self._backoff = backoff or Backoff()
        self._kept: dict[str, _Kept] = {}

    async def run_once(self, program: Program) -> int:
        """Run `program` to its end and return its exit status; a caller that gives up takes it along."""
        child = await self._spawner.of(program)
        try:
            return await child.wait()
        finally:
            child.kill()

    def keep(self, program: Program) -> None:
        """Start `program`, and again whenever it ends."""
        self._kept[program.name] = _Kept(program, self._spawner, self._backoff)

    async def stop(self, names: Sequence[str], stop_signal: StopSignal) -> None:
        """End the named children one after the other; a name that was never started is passed over."""
        for name in names:
            if (kept := self._kept.pop(name, None)) is not None:
                await kept.stop(stop_signal)


class _Spawner:
    """How children are started."""

    def __init__(self, observer: ProcessObserver) -> None:
        self.observer = observer
        # Nobody else ever has the write end, so a reader learns of our death (see `cli.up.die_with_parent`).
        self._lifeline = None if sys.platform == "linux" else os.pipe()

    async def of(self, program: Program) -> "_Child":
        reader, writer = os.pipe()
        pipe = [self._lifeline[0]] if self._lifeline else []
        die_with_parent = [sys.executable, "-I", "-S", str(DIE_WITH_PARENT), str(os.getpid()), "".join(map(str, pipe))]
        try:
            process = await asyncio.create_subprocess_exec(
                *die_with_parent,
                *program.command,
                env={**os.environ, **program.environment} if program.inherits else program.environment,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                pass_fds=pipe,
                start_new_session=True,
            )
        finally:
            os.close(writer)
        output = asyncio.create_task(_pass_on(reader, partial(self.observer.line, program.name)))
        return _Child(process, output)


class _Kept:
    """One program that is kept running."""

    def __init__(self, program: Program, spawner: _Spawner, backoff: Backoff) -> None:
        self._program = program
        self._spawner = spawner
        self._backoff = backoff
        self._stopping = asyncio.Event()
        self._child: _Child | None = None
        self._task = asyncio.create_task(self._keep())

    async def stop(self, stop_signal: StopSignal) -> None:
        """End the child and wait for it, as long as the program and the operator's patience allow."""
        self._stopping.set()
        self._tell(signal.SIGTERM)
        # A hurry that cut the wait for another child short is no reason to be rough with this one.
        sooner = stop_signal.kill if stop_signal.force.is_set() else stop_signal.force
        if not await self._ends_by_itself(sooner):
            self._tell(self._program.force)
            if not await self._ends_within(HURRIED_SECONDS, stop_signal.kill):
                self._spawner.observer.note(f"{self._program.name} does not end; killing it")
                if self._child is not None:
                    self._child.kill()
        await self._task

    async def _ends_by_itself(self, sooner: asyncio.Event) -> bool:
        """Whether it ends in its time, or later once it has done what it must; the operator is told what that is."""
        until = monotonic() + self._program.stop_seconds
        told_at = -REPORT_SECONDS
        while not sooner.is_set():
            if await self._ends_within(min(LOOK_SECONDS, max(0.0, until - monotonic())), sooner):
                return True
            look = self._program.unfinished
            unfinished = None if look is None else await asyncio.to_thread(look)
            if unfinished and monotonic() - told_at >= REPORT_SECONDS and not sooner.is_set():
                told_at = monotonic()
                self._spawner.observer.note(f"{unfinished}; Ctrl-C again gives them up")
            if monotonic() >= until:
                if not unfinished:
                    return False
                until = monotonic() + LOOK_SECONDS
        return self._task.done()

    async def _keep(self) -> None:
        pause = self._backoff.first
        while not self._stopping.is_set():
            began = monotonic()
            self._child = await self._spawner.of(self._program)
            if self._stopping.is_set():  # it was not there yet to be told
                self._tell(signal.SIGTERM)
            status = await self._child.wait()
            if self._stopping.is_set():
                return
            if monotonic() - began >= self._backoff.healthy_after:
                pause = self._backoff.first
            self._spawner.observer.note(
                f"{self._program.name} {describe_exit(status)}; starting it again in {pause:g} s"
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(pause * 2, self._backoff.longest)

    def _tell(self, which: signal.Signals) -> None:
        if self._child is not None:
            self._child.tell(which)

    async def _ends_within(self, seconds: float, unless: asyncio.Event) -> bool:
        interrupted = asyncio.create_task(unless.wait())
        await asyncio.wait({self._task, interrupted}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        interrupted.cancel()
        return self._task.done()


class _Child:
    """One run of a program."""

    def __init__(self, process: asyncio.subprocess.Process, output: asyncio.Task[None]) -> None:
        self._process = process
        self._output = output

    async def wait(self) -> int:
        """The exit status, once the process has ended, its group is gone and its last words were passed on."""
        status = await self._process.wait()
        self._kill_group()
        await asyncio.wait({self._output}, timeout=LAST_WORDS_SECONDS)
        self._output.cancel()
        return status

    def tell(self, which: signal.Signals) -> None:
        """Send `which` to the process, if it still runs."""
        with suppress(ProcessLookupError):
            self._process.send_signal(which)

    def kill(self) -> None:
        """End the process and all that it started, if it still runs."""
        if self._process.returncode is None:
            self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS says "not permitted" of a group of zombies
            os.killpg(self._process.pid, signal.SIGKILL)


async def _pass_on(pipe: int, line: Callable[[str], None]) -> None:
    """Hand over what comes out of `pipe`, line by line, until its last writer is gone."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", buffering=0)
    )
    rest = b""
    try:
        while chunk := await reader.read(LONGEST_LINE):
            *whole, rest = (rest + chunk).split(b"\n")
            for each in whole:
                line(_text(each))
            if len(rest) >= LONGEST_LINE:
                line(_text(rest))
                rest = b""
    finally:
        transport.close()
        if rest:
            line(_text(rest))


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").rstrip("\r")


def describe_exit(status: int) -> str:
    """How a process ended, in words, from `subprocess`'s return code."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
