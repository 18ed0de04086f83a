"""Real servers as child processes of the tests, on a loopback port. They end with the tests."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import psutil

from tests.support.waiting import await_until

HOST = "127.0.0.1"
# Below what systems give to outgoing connections: a client that calls a stopped server's port up there can be given
# that very port as its own, and the server could not come back to it.
PORTS = range(10_000, 32_000)
PORT_TRIES = 20
START_SECONDS = 30
STOP_SECONDS = 20


def free_port() -> int:
    """Return a loopback port that is free now."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


class DieWithParent:
    """Ends a process when ours ends, even by SIGKILL: a shell waits until our end of a pipe is closed."""

    def __init__(self, pid: int, number: signal.Signals) -> None:
        command = ["/bin/sh", "-c", 'read -r _; kill "-$1" "$2"', "leash", str(int(number)), str(pid)]
        self._popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def let_go(self) -> None:
        self._popen.kill()
        self._popen.wait()
        assert self._popen.stdin is not None
        self._popen.stdin.close()


class Server(ABC):
    """A server with its own directory, which keeps its port, and so its URL, across restarts."""

    name: str
    stop_signal = signal.SIGTERM
    die_with_parent_signal = signal.SIGKILL
    start_seconds: float = START_SECONDS
    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"backburner-{self.name}-"))
        self.log = self.directory / "log"
        self.port = 0
        self._popen: subprocess.Popen[bytes] | None = None
        self._die_with_parent: DieWithParent | None = None

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    @property
    def is_running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    def start(self) -> None:
        """Start it, on its previous port or on a free one, and wait until it answers."""
        for _ in range(1 if self.port else PORT_TRIES):
            port_was_given = self.port != 0
            self.port = self.port or free_port()
            self._spawn()
            if await_until(lambda: self._is_up() or not self.is_running, self.start_seconds, self._log_tail):
                if self.is_running:
                    return
                self._gone()
                if not port_was_given:
                    self.port = 0
        raise AssertionError(f"{self.name} does not start:\n{self._log_tail()}")

    def stop(self, how: signal.Signals | None = None) -> None:
        """End it by a signal, by default its orderly one, and wait until it is gone."""
        if self._popen is None:
            return
        if self.is_running:
            self._popen.send_signal(how or self.stop_signal)
            self.thaw()
        try:
            self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            raise
        finally:
            self._gone()

    def kill(self) -> None:
        """Kill it, so that it cannot clean up."""
        self.stop(signal.SIGKILL)

    def freeze(self) -> None:
        """Freeze it and its children without closing connections, until `thaw` or `stop`."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def restart(self, how: signal.Signals | None = None) -> None:
        self.stop(how)
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.directory)

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self._command(),
                cwd=self.directory,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self._user(),
                group=self._group(),
                extra_groups=None if self._user() is None else [],
            )
        self._die_with_parent = DieWithParent(self._popen.pid, self.die_with_parent_signal)

    def _signal_all(self, number: signal.Signals) -> None:
        process = psutil.Process(self.pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)

    def _gone(self) -> None:
        assert self._popen is not None
        self._popen.wait()
        self._popen = None
        if self._die_with_parent is not None:
            self._die_with_parent.let_go()
            self._die_with_parent = None

    def _is_up(self) -> bool:
        return self.is_running and self._answers()

    def _user(self) -> int | None:
        return None

    def _group(self) -> int | None:
        return None

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else "(no log)"
