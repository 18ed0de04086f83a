"""Faults of a hosted Redis that answers but takes no writes. Each ends with its block."""

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
        client.replicaof(HOST, 1)  # an unused port
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
    """Make snapshots fail: a directory has the name of their file."""
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
    """Restart it, and let it load its data from disk slowly."""
    with valkey.client() as client:
        client.config_set("rdbcompression", "no")  # it answers once per kilobyte read
        client.mset({f"loaded:{number}": "x" * 1_000 for number in range(4_000)})
        client.save()
    valkey.stop()
    valkey.also = {"key-load-delay": "10000", "loading-process-events-interval-bytes": "1024"}  # the first in µs
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
"""Faults by the error code in the reply."""
