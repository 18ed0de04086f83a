"""The servers of a benchmark: a real PostgreSQL that syncs as in production, a Valkey, and our own processes."""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psutil

from tests.support.postgres import Databases, PostgresServer
from tests.support.stack import Process, Stack
from tests.support.valkey import ValkeyServer

# Settings of an operator of a small machine. All others are PostgreSQL's defaults.
POSTGRES_SETTINGS = {
    "autovacuum": "on",
    "fsync": "on",
    "full_page_writes": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "wal_level": "replica",
}


@dataclass(frozen=True)
class Run:
    """The size of a run. `quick` runs end within minutes and show the shape instead of exact figures."""

    quick: bool = False
    rounds: int = 3

    def scaled(self, full: int, quick: int) -> int:
        """Return `quick` in a quick run, else `full`."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Stage:
    """The servers of one benchmark."""

    postgres: PostgresServer
    valkey: ValkeyServer
    databases: Databases
    directory: Path

    @contextmanager
    def stack(
        self, environment: dict[str, str] | None = None, *, workers: int = 1, sqlite: bool = False
    ) -> Iterator[Stack]:
        """Run our processes on a fresh, migrated database and an empty Valkey, with the default settings."""
        self.valkey.flush()
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            url = f"sqlite:///{directory}/backburner.db" if sqlite else self.databases.migrated()
            defaults = {"BACKBURNER_LOG_LEVEL": "warning", "BACKBURNER_RETRY_BASE_SECONDS": "2"}
            with Stack(url, self.valkey.url, Path(directory), defaults | (environment or {}), workers) as stack:
                yield stack
            if not sqlite:
                self.databases.drop(url)


@contextmanager
def stage(settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Stage]:
    """Run new servers during the block. `settings` are added to `POSTGRES_SETTINGS`."""
    with ExitStack() as exits:
        directory = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="backburner-bench-")))
        postgres = exits.enter_context(PostgresServer({**POSTGRES_SETTINGS, **settings}))
        valkey = exits.enter_context(ValkeyServer())
        databases = Databases(postgres.url)
        yield Stage(postgres, valkey, databases, directory)
        databases.close()


@contextmanager
def simulator() -> Iterator[str]:
    """Run a simulator by itself; yield its URL."""
    process = Process("simulator", [sys.executable, "-m", "simulator", "--port", "0"], {})
    try:
        yield process.match(r"listening on (http://\S+)")[1]
    finally:
        process.stop()


def call_summary(provider_url: str) -> dict[str, Any]:
    """Return the totals of a simulator's call log (`in_flight`, `peak_in_flight`, `total`, ...)."""
    summary: dict[str, Any] = httpx.get(f"{provider_url}/_calls", params={"limit": 0}, timeout=30).json()["summary"]
    return summary


def cpu_seconds(processes: Sequence[Process | int]) -> float:
    """Return the CPU time of these processes and all their children so far."""
    seconds = 0.0
    for each in family(processes):
        times = each.cpu_times()
        seconds += times.user + times.system
    return seconds


def resident_bytes(processes: Sequence[Process | int]) -> int:
    """Return the unshared memory (USS) of these processes and all their children."""
    return sum(each.uss for each in _memory_of(processes))


def proportional_bytes(processes: Sequence[Process | int]) -> int:
    """Return the memory of these processes and all their children, with shared memory counted once (PSS)."""
    return sum(each.pss for each in _memory_of(processes))


def _memory_of(processes: Sequence[Process | int]) -> Iterator[Any]:
    for each in family(processes):
        with suppress(psutil.NoSuchProcess):  # a database's processes come and go with their connections
            yield each.memory_full_info()


def family(processes: Sequence[Process | int]) -> list[psutil.Process]:
    """Return these processes and all their children."""
    roots = [psutil.Process(each if isinstance(each, int) else each.popen.pid) for each in processes]
    return [member for root in roots for member in (root, *root.children(recursive=True))]
