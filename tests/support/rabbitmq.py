"""A private RabbitMQ node from Debian's rabbitmq-server, if installed; it shares nothing with the system's."""

import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final

import amqp

from tests.support.server import HOST, Server, free_port

SCRIPT: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
MISSING: Final = f"no RabbitMQ on this machine ({SCRIPT}); as root: apt-get install rabbitmq-server"


def is_installed() -> bool:
    return SCRIPT.exists() and shutil.which("erl") is not None


class RabbitServer(Server):
    """One node with its own name, cookie, port mapper and files."""

    name = "rabbitmq"
    start_seconds = 120  # five on an idle machine

    def __init__(self) -> None:
        super().__init__()
        self._mapper_port = free_port()
        self._node_port = free_port()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}//"

    def _command(self) -> list[str]:
        settings = {
            "HOME": self.directory,
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": self._mapper_port,
            "RABBITMQ_ALLOW_INPUT": "true",  # the script then becomes the server instead of supervising it
            "RABBITMQ_CONFIG_FILE": self.directory / "none",
            "RABBITMQ_CONF_ENV_FILE": self.directory / "none.env",
            "RABBITMQ_DIST_PORT": self._node_port,
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.directory / "plugins",
            "RABBITMQ_GENERATED_CONFIG_DIR": self.directory / "generated",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": self.directory / "logs",
            "RABBITMQ_MNESIA_BASE": self.directory / "data",
            "RABBITMQ_NODENAME": f"backburner-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_PID_FILE": self.directory / "pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +S 1:1",
        }
        return ["/usr/bin/env", *(f"{name}={value}" for name, value in settings.items()), str(SCRIPT)]

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1):
                pass
            with amqp.Connection(f"{HOST}:{self.port}", connect_timeout=2):
                return True
        except (OSError, amqp.AMQPError):
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:  # Erlang's port mapper outlives the node that started it
            environment = {**os.environ, "ERL_EPMD_PORT": str(self._mapper_port)}
            subprocess.run(["epmd", "-kill"], env=environment, stdout=subprocess.DEVNULL, check=False)
