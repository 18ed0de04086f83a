"""What a hosted Redis does to its clients: it answers, and takes no writes. Each heals at the end of its block."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import redis

from tests.support.server import HOST
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until


@contextmanager
def replica(valkey: ValkeyServer) -> Iterator[None]:
    with valkey.client() as client:
        client.replicaof(HOST, 1)  # where nobody is
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


@contextmanager
def full_memory(valkey: ValkeyServer) -> Iterator[None]:
    with valkey.client() as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


@contextmanager
def full_disk(valkey: ValkeyServer) -> Iterator[None]:
    """Snapshots cannot be written: a directory stands in their place."""
    in_the_way = valkey.directory / "dump.rdb"
    in_the_way.mkdir()
    with valkey.client() as client:
        client.config_set("save", "3600 1")
        client.bgsave()
        await_until(lambda: _info(client, "rdb_last_bgsave_status") == "err", 20, "the snapshot worked")
        try:
            yield
        finally:
            client.config_set("save", "")
            in_the_way.rmdir()


@contextmanager
def another_password(valkey: ValkeyServer) -> Iterator[None]:
    with valkey.client() as client:
        client.config_set("requirepass", "another")
        client.execute_command("AUTH", "another")
        client.client_kill_filter(_type="normal", skipme=True)
        client.client_kill_filter(_type="pubsub", skipme=True)
        try:
            yield
        finally:
            client.config_set("requirepass", "")


@contextmanager
def loading(valkey: ValkeyServer) -> Iterator[None]:
    """It was started again, and reads its data from the disk for as long as it is let."""
    with valkey.client() as client:
        client.config_set("rdbcompression", "no")  # it answers once for each kilobyte that it reads
        client.mset({f"loaded:{number}": "x" * 1_000 for number in range(4_000)})
        client.save()
    valkey.stop()
    valkey.also = {"key-load-delay": "10000", "loading-process-events-interval-bytes": "1024"}  # the former in µs
    valkey.start()
    with valkey.client() as client:
        assert _info(client, "loading") == 1
        try:
            yield
        finally:
            client.config_set("key-load-delay", 0)
            valkey.also = {}
            (valkey.directory / "dump.rdb").unlink()


def _info(client: "redis.Redis", name: str) -> Any:
    return client.info("persistence")[name]


NO_WRITES: Final[Mapping[str, Callable[[ValkeyServer], AbstractContextManager[None]]]] = {
    "READONLY": replica,
    "OOM": full_memory,
    "MISCONF": full_disk,
    "NOAUTH": another_password,
    "LOADING": loading,
}
"""By the code that a client is answered."""
