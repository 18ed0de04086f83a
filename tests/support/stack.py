"""The simulator, the API and workers as processes, on a given database and Redis."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from openai import OpenAI

from cli.up.commands import API
from migrations import upgrade
from tests.support.waiting import await_until

ROOT = Path(__file__).parents[2]
MODEL = "openai/o3-pro"
API_KEY = "bb_a-key-for-tests"
PROVIDER_KEY = "provider-key-for-tests"


class Process:
    """A child process whose output is kept for failed tests."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.lines: list[str] = []
        self.popen = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip())

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def match(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        """Wait for the first line that matches `pattern` and return it."""

        def found() -> re.Match[str] | None:
            assert self.popen.poll() is None, f"{self.name} ended:\n{self.output}"
            return next((match for line in list(self.lines) if (match := re.search(pattern, line))), None)

        return await_until(found, seconds, lambda: f"{self.name} never printed {pattern!r}:\n{self.output}")

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()
        self._reader.join()

    def stop(self, seconds: float = 20) -> int:
        """End it as an operator would, and return its exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        self._reader.join()
        return self.popen.returncode


@dataclass
class Stack:
    """Simulator, API and workers. `environment` overrides their settings, `provider_flags` the simulator's."""

    database_url: str
    redis_url: str
    data_dir: Path
    environment: dict[str, str] = field(default_factory=dict)
    workers: int = 1
    provider_flags: tuple[str, ...] = ()
    processes: list[Process] = field(default_factory=list)
    clients: list[OpenAI] = field(default_factory=list)

    def __enter__(self) -> Self:
        try:
            flags = ["--port", "0", "--delay", "0.05", *self.provider_flags]
            self.simulator = self._start("simulator", ["-m", "simulator", *flags])
            upgrade(self.database_url)
            self.provider_url = self.simulator.match(r"listening on (http://\S+)")[1]
            self._begin_api()
            self.worker_processes = [self.start_worker() for _ in range(self.workers)]
            self._await_api()
            await_until(lambda: self.workers == 0 or self._ready(), 40, self.logs)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self.clients:
            client.close()
        for process in reversed(self.processes):
            if process.popen.poll() is None:
                process.signal(signal.SIGCONT)
                process.signal(signal.SIGTERM)
        for process in reversed(self.processes):
            process.stop()
        if error is not None:
            sys.stderr.write(self.logs())

    def logs(self) -> str:
        return "\n".join(f"--- {process.name}\n" + "\n".join(process.lines[-60:]) for process in self.processes)

    def settings(self) -> dict[str, str]:
        return {
            "BACKBURNER_DATABASE_URL": self.database_url,
            "BACKBURNER_REDIS_URL": self.redis_url,
            "BACKBURNER_DATA_DIR": str(self.data_dir),
            "BACKBURNER_API_KEY": API_KEY,
            "BACKBURNER_PROVIDER_BASE_URL": getattr(self, "provider_url", "http://127.0.0.1:9") + "/v1",
            "BACKBURNER_PROVIDER_API_KEY": PROVIDER_KEY,
            "BACKBURNER_PROVIDER_IDS": "allow",
            "BACKBURNER_RETRY_BASE_SECONDS": "0.05",
            "BACKBURNER_SHUTDOWN_GRACE_SECONDS": "2",
            **self.environment,
        }

    def start_api(self) -> None:
        """Start an API process, under a new URL, in place of the previous one."""
        self._begin_api()
        self._await_api()

    def _begin_api(self) -> None:
        self.api = self._start("api", [*API, "--port", "0"])

    def _await_api(self) -> None:
        self.url = self.api.match(r"running on (http://127\.0\.0\.1:\d+)")[1]

    def start_worker(self, *command: str) -> Process:
        """Start one more worker; by default as `backburner up` does."""
        return self._start("worker", ["-m", *(command or ("worker.celery_adapter.command",))])

    def _start(self, name: str, arguments: list[str]) -> Process:
        process = Process(name, [sys.executable, *arguments], self.settings())
        self.processes.append(process)
        return process

    def _ready(self) -> bool:
        return httpx.get(f"{self.url}/readyz").status_code == 200

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def openai(self, **options: Any) -> OpenAI:
        """Return the official SDK with only `base_url` and `api_key` set; it is closed with the stack."""
        self.clients.append(OpenAI(base_url=self.base_url, api_key=API_KEY, **options))
        return self.clients[-1]

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.base_url, headers={"Authorization": f"Bearer {API_KEY}"}, timeout=60)

    def submit(self, prompt: str, **fields: Any) -> str:
        """Submit a background response and return its id."""
        return self.submit_many(1, prompt, **fields)[0]

    def submit_many(self, count: int, prompt: str, **fields: Any) -> list[str]:
        body = {"model": MODEL, "input": prompt, "background": True, **fields}
        with self.http() as http:
            return [http.post("/responses", json=body).raise_for_status().json()["id"] for _ in range(count)]

    def get(self, job_id: str) -> dict[str, Any]:
        with self.http() as http:
            body: dict[str, Any] = http.get(f"/responses/{job_id}").raise_for_status().json()
        return body

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        data: list[dict[str, Any]] = self.get(f"{job_id}/attempts")["data"]
        return data

    def await_all(self, job_ids: list[str], status: str, seconds: float) -> None:
        """Wait until every job has this status."""
        left = set(job_ids)

        def all_there() -> bool:
            with self.http() as http:
                left.difference_update(
                    {each for each in left if http.get(f"/responses/{each}").json()["status"] == status}
                )
            return not left

        await_until(all_there, seconds, lambda: f"{len(left)} of {len(job_ids)} never were {status}\n{self.logs()}")

    def set_provider(self, **options: Any) -> None:
        """Set options of the simulator."""
        httpx.put(f"{self.provider_url}/_script", json=options).raise_for_status()

    def calls(self, job_id: str = "") -> list[dict[str, Any]]:
        """Return the calls that the provider recorded, of one job or of all."""
        query = {"client_request_id_prefix": job_id} if job_id else {}
        ledger = httpx.get(f"{self.provider_url}/_calls", params=query, trust_env=False).json()
        calls: list[dict[str, Any]] = ledger["calls"]
        return calls
