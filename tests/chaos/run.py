"""The run itself: jobs are submitted, polled and cancelled while the faults of the plan are inflicted."""

import base64
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.chaos.plan import ANSWER_MARK, PROMPT_MARK, Plan, PlannedFault, PlannedJob
from tests.chaos.world import World
from tests.support.server import HOST

TERMINAL: Final = frozenset(("completed", "incomplete", "failed", "cancelled"))
SUBMITTERS: Final = 4
POLLERS: Final = 2
ENCODED_BODY: Final = re.compile(rb'"body\\*": *\\*"([A-Za-z0-9+/=]+)')


@dataclass
class Seen:
    """What the clients and the broker's watcher saw; the checks are made against it."""

    acknowledged: dict[str, PlannedJob] = field(default_factory=dict)
    submitted_at: dict[str, float] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    cancelled: dict[str, str] = field(default_factory=dict)
    ends: dict[str, tuple[str, Any]] = field(default_factory=dict)
    end_changes: list[str] = field(default_factory=list)
    polls: int = 0
    foreign_polls: int = 0
    foreign_leaks: list[str] = field(default_factory=list)
    broker_bytes: int = 0
    broker_messages: int = 0
    broker_leaks: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    drain_seconds: float = 0.0
    open_at_the_end: list[str] = field(default_factory=list)


class Run:
    """One run of a plan in a world."""

    def __init__(self, world: World, plan: Plan, pace: float, say: Callable[[str], None]) -> None:
        """`pace` is how many jobs are submitted per second in all."""
        self._world = world
        self._plan = plan
        self._pace = pace
        self._say = say
        self._lock = threading.Lock()
        self._calm = threading.Event()
        self._over = threading.Event()
        self.seen = Seen()

    def go(self, drain_seconds: float) -> Seen:
        """Run it to the end: until every acknowledged job has ended, or `drain_seconds` after the last fault."""
        begun = time.monotonic()
        with ThreadPoolExecutor(SUBMITTERS + POLLERS + 60) as threads:
            watchers = [threads.submit(self._poll, number) for number in range(POLLERS)]
            watchers += [threads.submit(self._watch_broker), threads.submit(self._supervise)]
            faults = threads.submit(self._inflict_all, threads)
            submitters = [threads.submit(self._submit_share, number, threads) for number in range(SUBMITTERS)]
            try:
                for submitter in submitters:
                    submitter.result()
                self._calm.set()
                faults.result()
                self._world.heal()
                self._say(f"submitted and calm after {time.monotonic() - begun:.0f} s; draining")
                self.seen.drain_seconds = self._drain(drain_seconds)
            finally:
                self._calm.set()
                self._over.set()
            for watcher in watchers:
                watcher.result()
        self.seen.seconds = time.monotonic() - begun
        return self.seen

    def _client(self, key: str | None = None) -> httpx.Client:
        return httpx.Client(headers={"Authorization": f"Bearer {key or self._world.api_key}"}, timeout=8)

    def _submit_share(self, share: int, threads: ThreadPoolExecutor) -> None:
        rng = random.Random(f"{self._plan.seed}|submitter|{share}")
        begun = time.monotonic()
        with self._client() as http:
            for job in self._plan.jobs[share::SUBMITTERS]:
                self._over.wait(max(0.0, begun + job.number / self._pace - time.monotonic()))
                self._submit(http, job, rng, threads)

    def _submit(self, http: httpx.Client, job: PlannedJob, rng: random.Random, threads: ThreadPoolExecutor) -> None:
        """Submit until somebody acknowledges; what was answered in no clear way may exist or not."""
        for _ in range(60):
            try:
                answer = http.post(f"{rng.choice(self._world.api_urls)}/v1/responses", json=job.body)
            except httpx.HTTPError as error:
                self.seen.refused[type(error).__name__] += 1
                self._over.wait(0.3)
                continue
            if answer.status_code == 200:
                job_id: str = answer.json()["id"]
                with self._lock:
                    self.seen.submitted_at[job_id] = time.time()
                    self.seen.acknowledged[job_id] = job
                if job.cancel_after is not None:
                    threads.submit(self._cancel, job_id, job.cancel_after)
                return
            self.seen.refused[str(answer.status_code)] += 1
            self._over.wait(0.3)
        raise AssertionError(f"nobody takes job {job.number}: {self.seen.refused}")

    def _cancel(self, job_id: str, after: float) -> None:
        self._over.wait(after)
        with self._client() as http, suppress(httpx.HTTPError):
            answer = http.post(f"{random.choice(self._world.api_urls)}/v1/responses/{job_id}/cancel")
            if answer.status_code == 200:
                self.seen.cancelled[job_id] = answer.json()["status"]
                self._note(answer.json())

    def _poll(self, number: int) -> None:
        rng = random.Random(number)
        with self._client() as http, self._client(self._world.foreign_key) as foreign:
            while not self._over.is_set():
                known = list(self.seen.acknowledged)
                if known:
                    job_id = rng.choice(known if rng.random() < 0.5 else known[-60:])
                    url = f"{rng.choice(self._world.api_urls)}/v1/responses/{job_id}"
                    with suppress(httpx.HTTPError):
                        answer = http.get(url)
                        if answer.status_code == 200:
                            self._note(answer.json())
                        elif answer.status_code < 500:
                            self.seen.end_changes.append(f"{job_id} answered {answer.status_code}")
                        if rng.random() < 0.1:
                            self._poll_as_foreigner(foreign, url)
                self._over.wait(0.03)

    def _poll_as_foreigner(self, http: httpx.Client, url: str) -> None:
        answer = http.get(url) if random.random() < 0.8 else http.post(f"{url}/cancel")
        if answer.status_code < 500:
            self.seen.foreign_polls += 1
            if answer.status_code != 404:
                self.seen.foreign_leaks.append(f"{url} answered a foreign key {answer.status_code}")

    def _note(self, body: dict[str, Any]) -> None:
        with self._lock:
            self.seen.polls += 1
            end = (body["status"], body.get("completed_at"))
            known = self.seen.ends.get(body["id"])
            if known is not None and known != end:
                self.seen.end_changes.append(f"{body['id']} was seen as {known} and later as {end}")
            if body["status"] in TERMINAL:
                self.seen.ends[body["id"]] = end

    def _watch_broker(self) -> None:
        """Read along every command that Valkey gets, over a connection of our own that is never hurt."""
        while not self._over.is_set():
            with suppress(OSError), socket.create_connection((HOST, self._world.valkey.port), timeout=1) as line:
                line.sendall(b"MONITOR\r\n")
                self._read_along(line)
            self._over.wait(0.2)

    def _read_along(self, line: socket.socket) -> None:
        unread = b""
        while not self._over.is_set():
            try:
                chunk = line.recv(65_536)
            except TimeoutError:
                continue
            if not chunk:
                return
            *commands, unread = (unread + chunk).split(b"\r\n")
            for command in commands:
                self._look_at(command)

    def _look_at(self, raw: bytes) -> None:
        self.seen.broker_messages += 1
        self.seen.broker_bytes += len(raw)
        plain = [raw, *(base64.b64decode(body) for body in ENCODED_BODY.findall(raw))]
        for text in plain:
            for secret in (PROMPT_MARK, ANSWER_MARK, self._world.api_key, self._world.provider_key):
                if secret.encode() in text:
                    self.seen.broker_leaks.append(text.decode(errors="replace"))

    def _inflict_all(self, threads: ThreadPoolExecutor) -> None:
        running = []
        for fault in self._plan.faults:
            if self._calm.wait(fault.pause):
                break
            running.append(threads.submit(self._inflict, fault))
        for each in running:
            each.result()

    def _inflict(self, fault: PlannedFault) -> None:
        if self._world.inflict(fault, self._calm):
            self.seen.faults[fault.name] += 1

    def _supervise(self) -> None:
        while not self._over.wait(0.5):
            for name in self._world.supervise():
                self.seen.faults[f"{name} did not start"] += 1

    def _drain(self, seconds: float) -> float:
        begun = time.monotonic()
        with self._client() as http:
            while True:
                left = [job_id for job_id in list(self.seen.acknowledged) if job_id not in self.seen.ends]
                for job_id in left:
                    with suppress(httpx.HTTPError):
                        answer = http.get(f"{self._world.api_urls[0]}/v1/responses/{job_id}")
                        if answer.status_code == 200:
                            self._note(answer.json())
                if not left or time.monotonic() - begun > seconds:
                    self.seen.open_at_the_end = left
                    return time.monotonic() - begun
                self._over.wait(0.3)
