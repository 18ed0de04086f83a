"""The whole program as processes, with a proxy on every link, so that each part can be hurt by itself."""

import json
import random
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
from redis.exceptions import RedisError

from cli.programs import API
from jobs.dispatch import Dispatcher, create_celery
from jobs.settings import Transport, load_settings
from jobs.store.database import Database
from jobs.store.keys import BOOTSTRAP_ID, create_key
from tests.chaos.plan import (
    APIS,
    CALL_DEADLINE,
    CONCURRENCY,
    JOB_DEADLINE,
    PROVIDER_FAULTS,
    WORKER_TIMEOUT,
    WORKERS,
    PlannedFault,
)
from tests.chaos.proxy import Passage, Proxy
from tests.support.names import NAMESPACE, get_names
from tests.support.postgres import Databases, PostgresServer, StopMode
from tests.support.server import HOST, free_port
from tests.support.stack import Process
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

SHARE_OF_FAULTS = 0.3
PROVIDER_DELAY = 0.4
BAD_KEY = "bad-key"


@dataclass(frozen=True)
class Window:
    """When a part was hurt, in unix time."""

    what: str
    begun: float
    ended: float


@dataclass(frozen=True)
class Tenant:
    """One API key with work of its own."""

    key_id: str
    secret: str


class Slot:
    """A place for one process that is started again under the same name and port whenever it died."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self.former: list[Process] = []
        self.busy = threading.Lock()
        self._arguments = arguments
        self._environment = environment
        self.start()

    def start(self) -> None:
        self.process = Process(self.name, [sys.executable, *self._arguments], self._environment)
        self.former.append(self.process)

    def lines(self) -> list[str]:
        return [line for process in self.former for line in list(process.lines)]


class World:
    """Two APIs, three workers, the simulator, PostgreSQL, Valkey, and the proxies between them."""

    def __init__(self, data_dir: Path, seed: int, transport: Transport) -> None:
        self._data_dir = data_dir
        self._seed = seed
        self._transport = transport
        self._parts = ExitStack()
        self._servers_busy = threading.Lock()
        self._provider_busy = threading.Lock()
        self.provider_key = f"provider-{secrets.token_urlsafe(16)}"
        self.tenants = [Tenant(BOOTSTRAP_ID, f"bb_{secrets.token_urlsafe(16)}")]
        self.windows: list[Window] = []
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
        self._parts.callback(self._stop_processes)
        self.slots: list[Slot] = []
        options = ["--port", "0", "--delay", str(PROVIDER_DELAY), "--jitter", "0.9", "--seed", str(self._seed)]
        chaos = ["--chaos", str(SHARE_OF_FAULTS), "--chaos-by", "prompt", "--chaos-mix", json.dumps(PROVIDER_FAULTS)]
        kept = ["--ledger-limit", "1000000", "--bodies-limit", "0", "--poll-after-ms", "300"]
        if self._transport is Transport.BACKGROUND:
            kept.append("--native-background")
        self.simulator = self._slot("simulator", ["-m", "simulator", *options, *chaos, *kept])
        self.provider_url = self.simulator.process.match(r"listening on (http://\S+)")[1]
        ports = {"database": self.postgres.port, "broker": self.valkey.port}
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
        celery = create_celery(load_settings(redis_url=self.valkey.url, data_dir=str(self._data_dir)))
        self.bell = Dispatcher(celery, get_names)
        self._parts.callback(self.bell.close)

    def _is_ready(self, url: str) -> bool:
        return httpx.get(f"{url}/readyz").status_code == 200

    def _slot(self, name: str, arguments: list[str]) -> Slot:
        slot = Slot(name, arguments, self._settings())
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
            "BACKBURNER_DATA_DIR": str(self._data_dir),
            "BACKBURNER_API_KEY": self.tenants[0].secret,
            "BACKBURNER_PROVIDER_BASE_URL": f"http://{HOST}:{self.links['provider'].port}/v1",
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

    def _stop_processes(self) -> None:
        """Workers and APIs first, the simulator last, frozen ones woken."""
        for slot in reversed(self.slots):
            if slot.process.popen.poll() is None:
                slot.process.signal(signal.SIGCONT)
                slot.process.signal(signal.SIGTERM)
        for slot in reversed(self.slots):
            slot.process.stop()

    def calls(self) -> list[dict[str, Any]]:
        """The provider's ledger."""
        calls: list[dict[str, Any]] = httpx.get(f"{self.provider_url}/_calls", timeout=60).json()["calls"]
        return calls

    def passages(self) -> list[Passage]:
        """Every connection to the provider."""
        return self.links["provider"].passages

    def secrets(self) -> tuple[str, ...]:
        """What nobody may see."""
        return (self.provider_key, *(tenant.secret for tenant in self.tenants))

    def lines(self) -> list[str]:
        """Everything that the APIs and the workers have printed, the dead ones too."""
        return [f"{slot.name} {line}" for slot in (*self.apis, *self.workers) for line in slot.lines()]

    def tail(self) -> str:
        return "\n".join(f"{slot.name}: {line}" for slot in self.slots for line in slot.lines()[-30:])

    def inflict(self, fault: PlannedFault, wait: threading.Event) -> bool:
        """Do the fault and undo it after its time; `wait` cuts that short. False when its target is hurt already."""
        verb, what = fault.name.split()
        if what in ("worker", "api"):
            slots = self.workers if what == "worker" else self.apis
            return self._hurt_process(slots[fault.target % len(slots)], verb, fault.seconds, wait)
        if verb in ("cut", "stall"):
            return self._hurt_link(self.links[what], verb, fault, wait)
        if verb == "refuse":
            return self._turn_us_away(what, fault.seconds, wait)
        return self._hurt_server(fault, wait)

    def broker_outage(self, seconds: float, wait: threading.Event) -> None:
        """Take the broker away for long, whatever else goes on."""
        with self._servers_busy, self._window("broker"):
            self.valkey.stop()
            wait.wait(seconds)
            self.valkey.start()

    @contextmanager
    def _window(self, what: str) -> Iterator[None]:
        begun = time.time()
        try:
            yield
        finally:
            self.windows.append(Window(what, begun, time.time()))

    def _hurt_process(self, slot: Slot, verb: str, seconds: float, wait: threading.Event) -> bool:
        if not slot.busy.acquire(blocking=False):
            return False
        try:
            if verb == "freeze":
                slot.process.signal(signal.SIGSTOP)
                wait.wait(seconds)
                slot.process.signal(signal.SIGCONT)
                return True
            if verb == "stop":
                slot.process.stop()
                self.deaths[slot.process.popen.pid] = time.time()
            else:
                self.deaths[slot.process.popen.pid] = time.time()
                slot.process.kill()
            wait.wait(min(seconds, 1))
            slot.start()
            return True
        finally:
            slot.busy.release()

    def _hurt_link(self, link: Proxy, verb: str, fault: PlannedFault, wait: threading.Event) -> bool:
        with self._window(link.name):
            if verb == "cut":
                link.cut(fault.share, random.Random(fault.seconds))
                return True
            link.stall()
            wait.wait(min(fault.seconds, 4))
            link.flow()
            return True

    def _turn_us_away(self, why: str, seconds: float, wait: threading.Event) -> bool:
        """Let the provider refuse our key, or our account for want of credit."""
        if not self._provider_busy.acquire(blocking=False):
            return False
        try:
            with self._window("lane"):
                self.change_provider(**({"bad_keys": [BAD_KEY, self.provider_key]} if why == "key" else {"balance": 0}))
                wait.wait(min(seconds, 4))
                self.change_provider(bad_keys=[BAD_KEY], balance=None)
        finally:
            self._provider_busy.release()
        return True

    def change_provider(self, **options: Any) -> None:
        """Set options of the simulator, over a connection that is never hurt."""
        httpx.put(f"{self.provider_url}/_script", json=options, timeout=30).raise_for_status()

    def _hurt_server(self, fault: PlannedFault, wait: threading.Event) -> bool:
        if fault.name == "flush broker":
            try:
                with self._window("broker"):
                    self.valkey.flush()
            except RedisError:  # it is away
                return False
            return True
        if not self._servers_busy.acquire(blocking=False):
            return False
        what = fault.name.split()[1]
        server = self.valkey if what == "broker" else self.postgres
        try:
            with self._window(what):
                server.stop(StopMode.IMMEDIATE.value if fault.name == "crash database" else None)
                wait.wait(min(fault.seconds, 3))
                server.start()
        finally:
            self._servers_busy.release()
        return True

    def was_hurt(self, what: str, begun: float, ended: float) -> bool:
        """Whether a part was hurt at any moment of a span."""
        return any(window.what == what and window.begun <= ended and begun <= window.ended for window in self.windows)

    def ring(self, job_ids: Sequence[str]) -> int:
        """Put bells into the broker's queue that nobody needs; how many went in."""
        return sum(self.bell.ring(job_id) for job_id in job_ids)

    def supervise(self) -> list[str]:
        """Start again what ended by itself, as an operator's supervisor would, and return the names.

        A process may refuse to start while the database is away; one that had begun to work must not end.
        """
        ended = []
        for slot in (*self.apis, *self.workers):
            if slot.process.popen.poll() is None or not slot.busy.acquire(blocking=False):
                continue
            try:
                if (status := slot.process.popen.poll()) is not None:
                    output = slot.process.output
                    had_begun = "worker registered" in output or "Application startup complete" in output
                    assert not had_begun, f"a {slot.name} ended by itself with {status}:\n{output[-20_000:]}"
                    slot.start()
                    ended.append(slot.name)
            finally:
                slot.busy.release()
        return ended

    def heal(self) -> None:
        """Every link flows."""
        for link in self.links.values():
            link.flow()

    def stop_workers(self) -> None:
        """End the workers as an operator would, so that all they know is written."""
        for slot in self.workers:
            slot.process.signal(signal.SIGTERM)
        for slot in self.workers:
            slot.process.stop()
