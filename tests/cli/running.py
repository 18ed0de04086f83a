"""Run the command as a process in its own directory, with only the settings of the test."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.support.waiting import await_until

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "cli.main")
OURS = ("BACKBURNER_", "AIMLAPI_")


def environment(**settings: str) -> dict[str, str]:
    """Return the tests' environment with `settings` as the only Backburner variables, named without their prefix."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    ours = {f"BACKBURNER_{name.upper()}": value for name, value in settings.items()}
    return {**inherited, **ours, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


def run(*arguments: str, cwd: Path, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command and wait for its end."""
    command = [*COMMAND, *arguments]
    return subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=environment(**settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


class Running:
    """A running command and its output."""

    def __init__(self, command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self.popen = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._is_closing = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.popen.kill()
        self.popen.wait()
        self._reader.join()
        if error is not None:
            sys.stderr.write(self.output)

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))
                if self._is_closing.is_set():
                    return

    def stop_reading(self) -> None:
        """Close the pipe after the next line, as `head` does."""
        self._is_closing.set()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def match(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        """Wait until the output matches `pattern`; return the match."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.output, re.MULTILINE)
            assert match or self.popen.poll() is None, f"it ended without printing {pattern!r}:\n{self.output}"
            return match

        return await_until(found, seconds, lambda: f"it never printed {pattern!r}:\n{self.output}")

    def signal(self, which: signal.Signals) -> None:
        self.popen.send_signal(which)

    def exit_status(self, seconds: float = 30) -> int:
        status = self.popen.wait(seconds)
        self._reader.join()
        return status

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.popen.pid).children(recursive=True)


def still_running(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that are still running."""
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
