"""The whole program as processes, with a proxy on every link, so that each part can be hurt by itself."""

import random
import secrets
import signal
import sys
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from jobs.store.database import Database
from jobs.store.keys import create_key
from tests.chaos.plan import APIS, CALL_DEADLINE, JOB_DEADLINE, WORKER_TIMEOUT, WORKERS, PlannedFault
from tests.chaos.proxy import Proxy
from tests.support.postgres import Databases, PostgresServer, StopMode
from tests.support.server import HOST, free_port
from tests.support.stack import Process
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

SHARE_OF_FAULTS = 0.3
PROVIDER_DELAY = 0.4


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

    def __init__(self, data_dir: Path, seed: int) -> None:
        self._data_dir = data_dir
        self._seed = seed
        self._parts = ExitStack()
        self._servers_busy = threading.Lock()
        self.api_key = f"bb_{secrets.token_urlsafe(16)}"
        self.provider_key = f"provider-{secrets.token_urlsafe(16)}"

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
        chaos = ["--chaos", str(SHARE_OF_FAULTS), "--chaos-by", "prompt", "--ledger-limit", "1000000"]
        self.simulator = self._slot("simulator", ["-m", "simulator", *options, *chaos])
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
            _key, self.foreign_key = create_key(tx, "another tenant", None, datetime.now(UTC))
        database.close()

    def _is_ready(self, url: str) -> bool:
        return httpx.get(f"{url}/readyz").status_code == 200

    def _slot(self, name: str, arguments: list[str]) -> Slot:
        slot = Slot(name, arguments, self._settings())
        self.slots.append(slot)
        return slot

    def _api(self, url: str) -> Slot:
        port = str(httpx.URL(url).port)
        return self._slot(
            "api", ["-m", "uvicorn", "--factory", "api.main:create_app", "--port", port, "--no-access-log"]
        )

    def _worker(self) -> Slot:
        return self._slot("worker", ["-m", "celery", "-A", "worker.main", "worker", "-P", "gevent"])

    def _settings(self) -> dict[str, str]:
        if not hasattr(self, "links"):
            return {}
        real = f":{self.postgres.port}/"
        return {
            "BACKBURNER_DATABASE_URL": self.database_url.replace(real, f":{self.links['database'].port}/"),
            "BACKBURNER_REDIS_URL": f"redis://{HOST}:{self.links['broker'].port}/0",
            "BACKBURNER_DATA_DIR": str(self._data_dir),
            "BACKBURNER_API_KEY": self.api_key,
            "BACKBURNER_PROVIDER_BASE_URL": f"http://{HOST}:{self.links['provider'].port}/v1",
            "BACKBURNER_PROVIDER_API_KEY": self.provider_key,
            "BACKBURNER_WORKER_CONCURRENCY": "40",
            "BACKBURNER_RETRY_BASE_SECONDS": "0.1",
            "BACKBURNER_RETRY_MAX_SECONDS": "2",
            "BACKBURNER_SHUTDOWN_GRACE_SECONDS": "2",
            "BACKBURNER_WORKER_TIMEOUT_SECONDS": str(WORKER_TIMEOUT),
            "BACKBURNER_RECONCILE_PATIENCE_SECONDS": "0",
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

    def lines(self) -> list[str]:
        """Everything that the APIs and the workers have printed, the dead ones too."""
        return [f"{slot.name} {line}" for slot in (*self.apis, *self.workers) for line in slot.lines()]

    def tail(self) -> str:
        return "\n".join(f"{slot.name}: {line}" for slot in self.slots for line in slot.lines()[-30:])

    def inflict(self, fault: PlannedFault, wait: "threading.Event") -> bool:
        """Do the fault and undo it after its time; `wait` cuts that short. False when its target is hurt already."""
        verb, what = fault.name.split()
        if what in ("worker", "api"):
            slots = self.workers if what == "worker" else self.apis
            return self._hurt_process(slots[fault.target % len(slots)], verb, fault.seconds, wait)
        if verb in ("cut", "stall"):
            return self._hurt_link(self.links[what], verb, fault, wait)
        return self._hurt_server(fault, wait)

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
            else:
                slot.process.kill()
            wait.wait(min(seconds, 1))
            slot.start()
            return True
        finally:
            slot.busy.release()

    def _hurt_link(self, link: Proxy, verb: str, fault: PlannedFault, wait: threading.Event) -> bool:
        if verb == "cut":
            link.cut(fault.share, random.Random(fault.seconds))
            return True
        link.stall()
        wait.wait(min(fault.seconds, 4))
        link.flow()
        return True

    def _hurt_server(self, fault: PlannedFault, wait: threading.Event) -> bool:
        if fault.name == "flush broker":
            self.valkey.flush()
            return True
        if not self._servers_busy.acquire(blocking=False):
            return False
        server = self.valkey if fault.name == "restart broker" else self.postgres
        try:
            server.stop(StopMode.IMMEDIATE.value if fault.name == "crash database" else None)
            wait.wait(min(fault.seconds, 3))
            server.start()
        finally:
            self._servers_busy.release()
        return True

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
