"""Keep child processes alive, and stop them in order: the worker finishes its calls before what it needs is stopped.

A child that dies is reported with its exit status and restarted, with a growing pause while it keeps dying. Each child
runs in a session of its own, so a terminal's Ctrl-C reaches only the supervisor. `cli.up.die_with_parent` makes sure
that no child outlives the supervisor.
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
FORCED_STOP_SECONDS = 12.0
LONGEST_LINE_BYTES = 64 * 1024
LAST_OUTPUT_SECONDS = 1.0
CHECK_SECONDS = 1.0
REPORT_SECONDS = 10.0


@dataclass(frozen=True)
class Program:
    """A child process to run. `environment` is added to our own if `inherits`, else it is the whole environment.

    The child has `stop_seconds` to end after SIGTERM; if that is cut short it is sent the signal `force`. `unfinished`
    returns a description of work that must be completed however long it takes, or None if there is no such work.
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
    """Pauses before a restart, in seconds.

    A pause doubles while the child keeps dying, and is reset after a child has lived for `healthy_after`.
    """

    first: float = 0.5
    longest: float = 30.0
    healthy_after: float = 60.0


class StopSignal:
    """The operator's request to stop. Ctrl-C once means stop, twice means force, three times means kill."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.force = asyncio.Event()
        self.kill = asyncio.Event()

    def escalate(self) -> None:
        """Go from nothing to stop, to force, to kill: one step for each signal received."""
        for event in (self.stop, self.force, self.kill):
            if not event.is_set():
                event.set()
                return

    def force_stop(self) -> None:
        """Request stop and force at once."""
        self.stop.set()
        self.force.set()


@dataclass(frozen=True)
class ProcessObserver:
    """Callbacks of a supervisor: `line` for each line of a child's output, `note` for its own remarks."""

    line: Callable[[str, str], None]
    note: Callable[[str], None]


class Supervisor:
    """The child processes of this process. All calls must come from one event loop."""

    def __init__(self, observer: ProcessObserver, backoff: Backoff | None = None) -> None:
        self._spawner = _Spawner(observer)
        self._backoff = backoff or Backoff()
        self._supervised: dict[str, _SupervisedProgram] = {}

    async def run_once(self, program: Program) -> int:
        """Run `program` to its end and return its exit status. Cancelling the call kills the child."""
        child = await self._spawner.spawn(program)
        try:
            return await child.wait()
        finally:
            child.kill()

    def keep_running(self, program: Program) -> None:
        """Start `program`, and restart it whenever it ends."""
        self._supervised[program.name] = _SupervisedProgram(program, self._spawner, self._backoff)

    async def stop(self, names: Sequence[str], stop_signal: StopSignal) -> None:
        """Stop the named children one after the other. Names that were never started are ignored."""
        for name in names:
            if (supervised := self._supervised.pop(name, None)) is not None:
                await supervised.stop(stop_signal)


class _Spawner:
    """Starts children that die with this process."""

    def __init__(self, observer: ProcessObserver) -> None:
        self.observer = observer
        # Only this process has the write end, so the read end signals its death (see `cli.up.die_with_parent`).
        self._lifeline = None if sys.platform == "linux" else os.pipe()

    async def spawn(self, program: Program) -> "_Child":
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
        output = asyncio.create_task(_forward(reader, partial(self.observer.line, program.name)))
        return _Child(process, output)


class _SupervisedProgram:
    """A program that is restarted whenever it ends, until it is stopped."""

    def __init__(self, program: Program, spawner: _Spawner, backoff: Backoff) -> None:
        self._program = program
        self._spawner = spawner
        self._backoff = backoff
        self._stopping = asyncio.Event()
        self._child: _Child | None = None
        self._task = asyncio.create_task(self._keep_running())

    async def stop(self, stop_signal: StopSignal) -> None:
        """Stop the child and wait until it has ended.

        It is sent SIGTERM, then the program's `force` signal, then SIGKILL. `stop_signal` shortens the waits.
        """
        self._stopping.set()
        self._send(signal.SIGTERM)
        # If force has already shortened the wait for an earlier child, this one still gets its full time.
        cut_short = stop_signal.kill if stop_signal.force.is_set() else stop_signal.force
        if not await self._ends_by_itself(cut_short):
            self._send(self._program.force)
            if not await self._ends_within(FORCED_STOP_SECONDS, stop_signal.kill):
                self._spawner.observer.note(f"{self._program.name} does not end; killing it")
                if self._child is not None:
                    self._child.kill()
        await self._task

    async def _ends_by_itself(self, cut_short: asyncio.Event) -> bool:
        """Return whether the child ends within `stop_seconds`, or later while it has unfinished work.

        The operator is shown the unfinished work from time to time.
        """
        until = monotonic() + self._program.stop_seconds
        reported_at = -REPORT_SECONDS
        while not cut_short.is_set():
            if await self._ends_within(min(CHECK_SECONDS, max(0.0, until - monotonic())), cut_short):
                return True
            check = self._program.unfinished
            unfinished = None if check is None else await asyncio.to_thread(check)
            if unfinished and monotonic() - reported_at >= REPORT_SECONDS and not cut_short.is_set():
                reported_at = monotonic()
                self._spawner.observer.note(f"{unfinished}; Ctrl-C again gives them up")
            if monotonic() >= until:
                if not unfinished:
                    return False
                until = monotonic() + CHECK_SECONDS
        return self._task.done()

    async def _keep_running(self) -> None:
        pause = self._backoff.first
        while not self._stopping.is_set():
            started_at = monotonic()
            self._child = await self._spawner.spawn(self._program)
            if self._stopping.is_set():  # `stop` was called while there was no child to signal
                self._send(signal.SIGTERM)
            status = await self._child.wait()
            if self._stopping.is_set():
                return
            if monotonic() - started_at >= self._backoff.healthy_after:
                pause = self._backoff.first
            self._spawner.observer.note(
                f"{self._program.name} {describe_exit(status)}; starting it again in {pause:g} s"
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(pause * 2, self._backoff.longest)

    def _send(self, number: signal.Signals) -> None:
        if self._child is not None:
            self._child.send(number)

    async def _ends_within(self, seconds: float, unless: asyncio.Event) -> bool:
        interrupted = asyncio.create_task(unless.wait())
        await asyncio.wait({self._task, interrupted}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        interrupted.cancel()
        return self._task.done()


class _Child:
    """A running process."""

    def __init__(self, process: asyncio.subprocess.Process, output: asyncio.Task[None]) -> None:
        self._process = process
        self._output = output

    async def wait(self) -> int:
        """Wait for the process to end, kill its group and forward its last output; return the exit status."""
        status = await self._process.wait()
        self._kill_group()
        await asyncio.wait({self._output}, timeout=LAST_OUTPUT_SECONDS)
        self._output.cancel()
        return status

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it is still running."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process and its children, if it is still running."""
        if self._process.returncode is None:
            self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS answers "not permitted" for a group of zombies
            os.killpg(self._process.pid, signal.SIGKILL)


async def _forward(pipe: int, line: Callable[[str], None]) -> None:
    """Call `line` for each line that is read from `pipe`, until its last writer has closed it."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", buffering=0)
    )
    rest = b""
    try:
        while chunk := await reader.read(LONGEST_LINE_BYTES):
            *whole, rest = (rest + chunk).split(b"\n")
            for each in whole:
                line(_text(each))
            if len(rest) >= LONGEST_LINE_BYTES:
                line(_text(rest))
                rest = b""
    finally:
        transport.close()
        if rest:
            line(_text(rest))


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").rstrip("\r")


def describe_exit(status: int) -> str:
    """Describe in words how a process ended, from the return code of `subprocess`."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
