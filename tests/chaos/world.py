"""The whole program as processes with a proxy on every link, so that each part can be hurt alone."""

import json
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psycopg

from cli.up.commands import API
from jobs.celery_app import configure_queues, create_celery
from jobs.settings import Transport, load_settings
from jobs.store.api_keys import BOOTSTRAP_ID, create_key
from jobs.store.database import Database
from jobs.task_queue import TaskQueue
from tests.chaos.locks import ALWAYS_WRITES, Locker
from tests.chaos.plan import (
    APIS,
    CALL_DEADLINE,
    CONCURRENCY,
    JOB_DEADLINE,
    PROVIDER_FAULTS,
    SHARE_OF_FAULTS,
    WORKER_TIMEOUT,
    WORKERS,
)
from tests.chaos.proxy import Passage, Proxy
from tests.support.host_clock import HostClock
from tests.support.names import NAMES, NAMESPACE, get_names
from tests.support.pgbouncer import PgBouncerServer
from tests.support.postgres import Databases, PostgresServer
from tests.support.preloaded import COMPILER
from tests.support.server import HOST, free_port
from tests.support.stack import Process
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

PROVIDER_DELAY = 0.4
BAD_KEY = "bad-key"
SESSIONS = 12
"""Connections of the pooler: fewer than the processes want at once."""


@dataclass(frozen=True)
class Window:
    """Span in which a part was hurt, in unix time."""

    what: str
    begun: float
    ended: float


@dataclass(frozen=True)
class Freeze:
    """Span in which a process was frozen, in unix time."""

    pid: int
    begun: float
    ended: float


@dataclass(frozen=True)
class Tenant:
    """A tenant: one API key and its jobs."""

    key_id: str
    secret: str


class Slot:
    """A place for one process, which is restarted under the same name and port when it dies."""

    def __init__(
        self, name: str, arguments: list[str], environment: dict[str, str], clock: HostClock | None = None
    ) -> None:
        """`clock` is that of its host, if it can be set."""
        self.name = name
        self.clock = clock
        self.former: list[Process] = []
        self.busy = threading.Lock()
        self._arguments = arguments
        self._environment = environment if clock is None else environment | clock.environment
        self.start()

    def start(self, *options: str) -> None:
        self.process = Process(self.name, [sys.executable, *self._arguments, *options], self._environment)
        self.former.append(self.process)

    @property
    def has_begun(self) -> bool:
        """Return whether the process has begun to work."""
        output = self.process.output
        return "worker registered" in output or "Application startup complete" in output

    def lines(self) -> list[str]:
        return [line for process in self.former for line in list(process.lines)]


class World:
    """Two APIs, three workers, the simulator, PostgreSQL, Valkey, and the proxies between them."""

    def __init__(self, data_dir: Path, seed: int, transport: Transport, *, is_pooled: bool = False) -> None:
        """`is_pooled` puts a PgBouncer in transaction mode before the database for the API and the workers."""
        self.data_dir = data_dir
        self._is_pooled = is_pooled
        self._seed = seed
        self._transport = transport
        self._parts = ExitStack()
        self.provider_key = f"provider-{secrets.token_urlsafe(16)}"
        self.tenants = [Tenant(BOOTSTRAP_ID, f"bb_{secrets.token_urlsafe(16)}")]
        self.windows: list[Window] = []
        self.freezes: list[Freeze] = []
        self.deaths: dict[int, float] = {}

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.close()

    def _build(self) -> None:
        enter = self._parts.enter_context
        self.postgres = enter(PostgresServer())
        self.valkey = enter(ValkeyServer())
        self.database_url = Databases(self.postgres.url).migrated()
        self.locker = Locker(self.database_url)
        self._parts.callback(self._stop_processes)
        self.slots: list[Slot] = []
        options = ["--port", "0", "--delay", str(PROVIDER_DELAY), "--jitter", "0.9", "--seed", str(self._seed)]
        chaos = ["--chaos", str(SHARE_OF_FAULTS), "--chaos-by", "prompt", "--chaos-mix", json.dumps(PROVIDER_FAULTS)]
        kept = ["--ledger-limit", "1000000", "--bodies-limit", "0", "--poll-after-ms", "300"]
        if self._transport is Transport.BACKGROUND:
            kept.append("--native-background")
        self.simulator = self._slot("simulator", ["-m", "simulator", *options, *chaos, *kept])
        self.provider_url = self.simulator.process.match(r"listening on (http://\S+)")[1]
        database_port = self.postgres.port
        if self._is_pooled:
            database_port = enter(PgBouncerServer(self.database_url, SESSIONS)).port
        ports = {"database": database_port, "broker": self.valkey.port}
        ports["provider"] = httpx.URL(self.provider_url).port or 0
        self.links = {name: enter(Proxy(name, port)) for name, port in ports.items()}
        self.api_urls = [f"http://{HOST}:{free_port()}" for _ in range(APIS)]
        self.apis = [self._api(url) for url in self.api_urls]
        for api in self.apis:
            api.process.match("running on")
        self.workers = [self._worker() for _ in range(WORKERS)]
        for url in self.api_urls:
            await_until(partial(self._is_ready, url), 60, self.tail)
        database = Database(self.database_url)
        with database.begin() as tx:
            key, secret = create_key(tx, "another tenant", None, datetime.now(UTC))
        database.close()
        self.tenants.append(Tenant(key.id, secret))
        self.celery = create_celery(load_settings(redis_url=self.valkey.url, data_dir=str(self.data_dir)))
        configure_queues(self.celery, NAMES)
        self.message = TaskQueue(self.celery, get_names)
        self._parts.callback(self.message.close)

    def _is_ready(self, url: str) -> bool:
        return httpx.get(f"{url}/readyz").status_code == 200

    def _slot(self, name: str, arguments: list[str]) -> Slot:
        clock = None
        if COMPILER is not None and name != "simulator":  # by its clock the run itself tells what came before what
            clock = HostClock(self.data_dir / f"host-{len(self.slots)}")
        slot = Slot(name, arguments, self._settings(), clock)
        self.slots.append(slot)
        return slot

    def _api(self, url: str) -> Slot:
        port = str(httpx.URL(url).port)
        return self._slot("api", [*API, "--port", port])

    def _worker(self) -> Slot:
        return self._slot("worker", ["-m", "celery", "-A", "worker.main", "worker", "-P", "gevent"])

    def _settings(self) -> dict[str, str]:
        if not hasattr(self, "links"):
            return {}
        real = f":{self.postgres.port}/"
        return {
            "BACKBURNER_DATABASE_URL": self.database_url.replace(real, f":{self.links['database'].port}/"),
            "BACKBURNER_REDIS_URL": f"redis://{HOST}:{self.links['broker'].port}/0",
            "BACKBURNER_NAMESPACE": NAMESPACE,
            "BACKBURNER_DATA_DIR": str(self.data_dir),
            "BACKBURNER_API_KEY": self.tenants[0].secret,
            "BACKBURNER_PROVIDER_BASE_URL": self.provider_base_url,
            "BACKBURNER_PROVIDER_API_KEY": self.provider_key,
            "BACKBURNER_PROVIDER_TRANSPORT": self._transport.value,
            "BACKBURNER_STALL_SECONDS": "2",
            "BACKBURNER_RECONCILE_AFTER_SECONDS": "5",
            "BACKBURNER_WORKER_CONCURRENCY": str(CONCURRENCY),
            "BACKBURNER_RETRY_BASE_SECONDS": "0.1",
            "BACKBURNER_RETRY_MAX_SECONDS": "2",
            "BACKBURNER_SHUTDOWN_GRACE_SECONDS": "2",
            "BACKBURNER_WORKER_TIMEOUT_SECONDS": str(WORKER_TIMEOUT),
            "BACKBURNER_CALL_DEADLINE_SECONDS": str(CALL_DEADLINE),
            "BACKBURNER_JOB_DEADLINE_SECONDS": str(JOB_DEADLINE),
            "BACKBURNER_LOG_FORMAT": "json",
            "BACKBURNER_LOG_LEVEL": "info",
        }

    @property
    def provider_base_url(self) -> str:
        """The provider as the workers know it, behind its proxy."""
        return f"http://{HOST}:{self.links['provider'].port}/v1"

    def _stop_processes(self) -> None:
        """Stop workers and APIs first and the simulator last; wake frozen ones."""
        for slot in reversed(self.slots):
            if slot.process.popen.poll() is None:
                slot.process.signal(signal.SIGCONT)
                slot.process.signal(signal.SIGTERM)
        for slot in reversed(self.slots):
            slot.process.stop()

    def calls(self) -> list[dict[str, Any]]:
        """The calls in the simulator's log."""
        calls: list[dict[str, Any]] = httpx.get(f"{self.provider_url}/_calls", timeout=60).json()["calls"]
        return calls

    def passages(self) -> list[Passage]:
        """Every connection to the provider."""
        return self.links["provider"].passages

    def secrets(self) -> tuple[str, ...]:
        """Secrets that may appear nowhere."""
        return (self.provider_key, *(tenant.secret for tenant in self.tenants))

    def lines(self) -> list[str]:
        """Everything that the APIs and the workers have printed, the dead ones too."""
        return [f"{slot.name} {line}" for slot in (*self.apis, *self.workers) for line in slot.lines()]

    def tail(self) -> str:
        return "\n".join(f"{slot.name}: {line}" for slot in self.slots for line in slot.lines()[-30:])

    @contextmanager
    def window(self, what: str) -> Iterator[None]:
        """Note that the part is hurt until the block ends."""
        begun = time.time()
        try:
            yield
        finally:
            self.windows.append(Window(what, begun, time.time()))

    @contextmanager
    def frozen(self, slot: Slot) -> Iterator[None]:
        """Freeze the process until the block ends."""
        begun = time.time()
        slot.process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            slot.process.signal(signal.SIGCONT)
            self.freezes.append(Freeze(slot.process.popen.pid, begun, time.time()))

    def operator(self) -> psycopg.Connection[Any]:
        """Open a database session over a connection without faults."""
        return psycopg.connect(
            self.database_url.replace("+psycopg", ""), connect_timeout=3, autocommit=True, options=ALWAYS_WRITES
        )

    def change_provider(self, **options: Any) -> None:
        """Set options of the simulator over a connection without faults."""
        httpx.put(f"{self.provider_url}/_script", json=options, timeout=30).raise_for_status()

    def enqueue(self, job_ids: Sequence[str]) -> int:
        """Put needless messages into the broker's queue; return how many went in."""
        return self.message.enqueue(job_ids)

    def supervise(self) -> list[str]:
        """Restart processes that ended by themselves, as a supervisor would, and return their names.

        A process may refuse to start while the database is away; one that had begun to work must not end.
        """
        ended = []
        for slot in (*self.apis, *self.workers):
            if slot.process.popen.poll() is None or not slot.busy.acquire(blocking=False):
                continue
            try:
                if (status := slot.process.popen.poll()) is not None:
                    output = slot.process.output[-20_000:]
                    assert not slot.has_begun, f"a {slot.name} ended by itself with {status}:\n{output}"
                    slot.start()
                    ended.append(slot.name)
            finally:
                slot.busy.release()
        return ended

    def heal(self) -> None:
        """Let every link pass everything on."""
        for link in self.links.values():
            link.flow()

    def stop_workers(self) -> None:
        """Stop the workers as an operator would, so that everything they hold is recorded."""
        for slot in self.workers:
            slot.process.signal(signal.SIGTERM)
        for slot in self.workers:
            slot.process.stop()
