"""Our services as local processes: with Compose's commands, environments, dependencies and health checks.

They run from the files of the image only, in an environment as empty as a container's. There is no container engine and
so no network of its own: addresses in commands and variables are replaced by loopback ones.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from types import TracebackType
from typing import Self

from tests.compose.composefile import ROOT, ComposeFile, Service
from tests.support.server import HOST, DieWithParent, free_port
from tests.support.waiting import await_until

START_SECONDS = 60
HEALTHCHECK_SECONDS = 20


def build_context() -> list[str]:
    """Return the top-level names that .dockerignore lets into the build."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    return [line[1:] for line in lines if line.startswith("!")]


def build_image(directory: Path) -> Path:
    """Install as the Dockerfile does, from the files of its build context; return the installation's directory."""
    source, installed = directory / "source", directory / "installed"
    source.mkdir()
    for name in build_context():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(installed), "."]
    done = subprocess.run(command, cwd=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return installed


class Container:
    """A service as a process."""

    def __init__(self, service: Service, image: Path, directory: Path, addresses: Mapping[str, str]) -> None:
        self.service = service
        self.directory = directory
        self.log = directory / f"{service.name}.log"
        self.ports = {port.target: free_port() for port in service.ports}
        self._addresses = {**addresses, "0.0.0.0": HOST}
        self._command = [self._local(part) for part in service.command]
        self._healthcheck = [self._local(part) for part in service.healthcheck]
        self._environment = {
            "HOME": str(directory),
            "HOSTNAME": socket.gethostname(),
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join([str(image / "bin"), str(Path(sys.executable).parent), os.defpath]),
            "PYTHONPATH": str(image),
            "BACKBURNER_DATA_DIR": str(directory),
            **{name: self._local(value) for name, value in service.environment.items()},
        }
        self._popen: subprocess.Popen[bytes] | None = None
        self._die_with_parent: DieWithParent | None = None

    @property
    def url(self) -> str:
        (port,) = self.ports.values()
        return f"http://{HOST}:{port}"

    @property
    def output(self) -> str:
        return self.log.read_text("utf-8", errors="replace") if self.log.exists() else ""

    @property
    def is_running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self._command,
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._die_with_parent = DieWithParent(self._popen.pid, SIGKILL)

    def run(self, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a command as `docker compose exec` does. `environment` is added to the container's."""
        return subprocess.run(
            command,
            cwd=self.directory,
            env={**self._environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HEALTHCHECK_SECONDS,
            check=False,
        )

    def is_healthy(self) -> bool:
        """Return whether its health check passes."""
        assert self.is_running, f"{self.service.name} ended:\n{self.output}"
        try:
            return self.run(*self._healthcheck).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def signal(self, number: Signals) -> None:
        assert self._popen is not None
        self._popen.send_signal(number)

    def stop(self, number: Signals = SIGTERM, seconds: float = 30) -> int:
        """Send a signal, wait for the end and return the exit status."""
        self.signal(number)
        return self.wait(seconds)

    def wait(self, seconds: float) -> int:
        """Wait until it ends by itself; return its exit status."""
        assert self._popen is not None
        try:
            return self._popen.wait(seconds)
        finally:
            self.remove()

    def remove(self) -> None:
        """Kill it if it is still running."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
        if self._die_with_parent is not None:
            self._die_with_parent.let_go()
            self._die_with_parent = None

    def _local(self, text: str) -> str:
        for address, local in self._addresses.items():
            text = text.replace(address, local)
        for target, port in self.ports.items():
            text = re.sub(rf"\b{target}\b", str(port), text)
        return text


class Stack:
    """All our services, started as by `docker compose up`. `addresses` maps addresses to local ones."""

    def __init__(self, compose: ComposeFile, image: Path, directory: Path, addresses: Mapping[str, str]) -> None:
        self._order = [each.name for each in compose.start_order()]
        self.containers = {}
        for name in self._order:
            (directory / name).mkdir()
            self.containers[name] = Container(compose.services[name], image, directory / name, addresses)

    def __getitem__(self, name: str) -> Container:
        return self.containers[name]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def start(self) -> None:
        """Start the services that are not running, after their dependencies, and wait until all are healthy."""
        long_running = [each for each in self.containers.values() if each.service.healthcheck]
        if all(each.is_running for each in long_running):
            return
        for container in [self.containers[name] for name in self._order if not self.containers[name].is_running]:
            for dependency, condition in container.service.depends_on.items():
                if dependency in self.containers:
                    self._await(self.containers[dependency], condition)
            container.start()
        for container in reversed(long_running):
            self._await(container, "service_healthy")

    def logs(self) -> str:
        return "\n".join(f"--- {name}\n{each.output[-6000:]}" for name, each in self.containers.items())

    def _await(self, container: Container, condition: str) -> None:
        if condition == "service_healthy":
            await_until(container.is_healthy, START_SECONDS, self.logs)
        elif container.is_running:
            assert container.wait(START_SECONDS) == 0, container.output

    def _end(self) -> None:
        for container in self.containers.values():
            container.remove()
