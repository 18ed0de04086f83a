"""Clients of a run: they submit, poll, cancel, delete and retry, and keep what they saw for the checks."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.chaos.plan import Plan, PlannedJob
from tests.chaos.world import World

TERMINAL: Final = frozenset(("completed", "incomplete", "failed", "cancelled"))
REVIVABLE: Final = frozenset(("failed", "cancelled"))
SUBMITTERS: Final = 4
TRIES: Final = 120
STALE: Final = 4.0
"""Seconds of tolerance: a readiness answer may come from a look begun before the request, and times are rounded."""


@dataclass(frozen=True)
class ReadinessReport:
    """One answer of `/readyz`, whatever its status."""

    asked_at: float
    answered_at: float
    body: dict[str, Any]


@dataclass
class Wait:
    """The time in which a job was seen queued although it had been due for over 30 s."""

    first: float
    last: float

    @property
    def long_at(self) -> float:
        """Moment from which every answer must report the wait."""
        return self.first + STALE


@dataclass
class Seen:
    """Everything that the clients and the broker's watcher saw. Moments are unix time."""

    acknowledged: dict[str, PlannedJob] = field(default_factory=dict)
    acknowledged_at: dict[str, float] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    cancelled: dict[str, str] = field(default_factory=dict)
    deleted_at: dict[str, float] = field(default_factory=dict)
    retried_at: dict[str, float] = field(default_factory=dict)  # when it was asked for
    ends: dict[str, tuple[str, Any]] = field(default_factory=dict)
    end_changes: list[tuple[str, str]] = field(default_factory=list)
    polls: int = 0
    foreign_polls: int = 0
    foreign_leaks: list[str] = field(default_factory=list)
    needless_messages: list[tuple[str, float]] = field(default_factory=list)
    refusals: int = 0  # of commands over the broker
    obeyed: list[str] = field(default_factory=list)
    reported: list[ReadinessReport] = field(default_factory=list)
    overdue: dict[tuple[str, float], Wait] = field(default_factory=dict)  # by id and moment due
    broker_commands: int = 0
    broker_leaks: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    timeline: list[tuple[float, float, str]] = field(default_factory=list)  # of the faults: begun, ended, name
    seconds: float = 0.0
    drain_seconds: float = 0.0
    open_at_the_end: list[str] = field(default_factory=list)

    def reports_during(self, wait: Wait) -> list[ReadinessReport]:
        """Answers that must report this wait: requested once it was long, and before it was last seen."""
        return [each for each in list(self.reported) if wait.long_at <= each.asked_at and each.answered_at <= wait.last]


@dataclass
class Answers:
    """Answers to a request repeated until one was clear: counts by status or error, and if the last was clear."""

    kinds: Counter[str] = field(default_factory=Counter)
    is_clear: bool = False


class Clients:
    """The clients of one run. Its methods are safe to call from any thread."""

    def __init__(self, world: World, plan: Plan, over: threading.Event) -> None:
        self._world = world
        self._plan = plan
        self._over = over
        self._lock = threading.Lock()
        self._changing: set[str] = set()
        self._changed_at: dict[str, float] = {}
        self._noted_at: dict[str, float] = {}
        self.seen = Seen()

    def open_jobs(self) -> list[str]:
        """Jobs that were acknowledged and not yet seen to end."""
        with self._lock:
            gone = (self.seen.ends, self.seen.deleted_at)
            return [job_id for job_id in self.seen.acknowledged if not any(job_id in each for each in gone)]

    def submit_share(self, share: int, pace: float, threads: ThreadPoolExecutor) -> None:
        """Submit every `SUBMITTERS`-th job of the plan at its time; `pace` is jobs per second in all."""
        rng = random.Random(f"{self._plan.seed}|submitter|{share}")
        begun = time.monotonic()
        with httpx.Client(timeout=8) as http:
            for job in self._plan.jobs[share::SUBMITTERS]:
                self._over.wait(max(0.0, begun + job.number / pace - time.monotonic()))
                self.submit(http, job, rng, threads)

    def submit(self, http: httpx.Client, job: PlannedJob, rng: random.Random, threads: ThreadPoolExecutor) -> str:
        """Submit until a server acknowledges. A create without a clear answer may exist or not."""
        headers = self._headers(job.tenant)
        if job.idempotency_key is not None:
            headers["Idempotency-Key"] = job.idempotency_key
        for _ in range(TRIES):
            answer = self._try(lambda: http.post(self._url(rng), json=job.body, headers=headers))
            if isinstance(answer, httpx.Response) and answer.status_code == 200:
                job_id: str = answer.json()["id"]
                with self._lock:
                    self.seen.acknowledged_at[job_id] = time.time()
                    self.seen.acknowledged[job_id] = job
                if job.cancel_after is not None:
                    threads.submit(self._cancel, job_id, job)
                if job.delete_after is not None:
                    threads.submit(self._delete, job_id, job)
                return job_id
            self.seen.refused[_kind(answer)] += 1
            self._over.wait(0.3)
        raise AssertionError(f"nobody takes job {job.number}: {self.seen.refused}")

    def poll(self, number: int) -> None:
        """Poll random jobs, mostly new ones, now and then with another tenant's key."""
        rng = random.Random(number)
        with httpx.Client(timeout=8) as http:
            while not self._over.wait(0.03):
                with self._lock:
                    known = list(self.seen.acknowledged.items())
                if known:
                    job_id, job = rng.choice(known if rng.random() < 0.5 else known[-60:])
                    self.look(http, job_id, job, rng)
                    if rng.random() < 0.1:
                        self._look_as_another(http, job_id, job, rng)

    def look(self, http: httpx.Client, job_id: str, job: PlannedJob, rng: random.Random) -> None:
        """Poll one job and keep its answer."""
        asked_at = time.time()
        answer = self._try(lambda: http.get(self._url(rng, job_id), headers=self._headers(job.tenant)))
        if isinstance(answer, httpx.Response):
            self._note(job_id, answer, asked_at)

    def retry_the_failed(self, calm: threading.Event) -> None:
        """Retry once each job of which the plan says so, when it has failed or was cancelled."""
        rng = random.Random(f"{self._plan.seed}|reviver")
        with httpx.Client(timeout=8) as http:
            while not calm.wait(0.1):
                with self._lock:
                    due = [
                        job_id
                        for job_id, (status, _moment) in self.seen.ends.items()
                        if status in REVIVABLE and self.seen.acknowledged[job_id].retry
                        if job_id not in self.seen.retried_at and self.seen.acknowledged[job_id].delete_after is None
                    ]
                for job_id in due:
                    self._retry(http, job_id, rng)

    def _retry(self, http: httpx.Client, job_id: str, rng: random.Random) -> None:
        job = self.seen.acknowledged[job_id]
        self._begin_change(job_id)
        self.seen.retried_at[job_id] = time.time()
        headers = self._headers(job.tenant)
        answers = self._insist(lambda: http.post(f"{self._url(rng, job_id)}/retry", headers=headers), (200, 400))
        assert answers.is_clear, f"{job_id} could not be revived: {answers}"
        self._end_change(job_id)

    def _cancel(self, job_id: str, job: PlannedJob) -> None:
        self._over.wait(job.cancel_after)
        asked_at = time.time()
        with httpx.Client(timeout=8) as http:
            url = f"{self._url(random.Random(job.number), job_id)}/cancel"
            answer = self._try(lambda: http.post(url, headers=self._headers(job.tenant)))
        if isinstance(answer, httpx.Response) and answer.status_code == 200:
            self.seen.cancelled[job_id] = answer.json()["status"]
            self._note(job_id, answer, asked_at)

    def _delete(self, job_id: str, job: PlannedJob) -> None:
        self._over.wait(job.delete_after)
        self._begin_change(job_id)
        rng, headers = random.Random(job.number), self._headers(job.tenant)
        with httpx.Client(timeout=8) as http:
            answers = self._insist(lambda: http.delete(self._url(rng, job_id), headers=headers), (200, 404))
        if answers.is_clear:
            self.seen.deleted_at[job_id] = time.time()
        self._end_change(job_id)

    def _look_as_another(self, http: httpx.Client, job_id: str, job: PlannedJob, rng: random.Random) -> None:
        headers, url = self._headers(1 - job.tenant), self._url(rng, job_id)
        verb = rng.choice(("get", "get", "get", "cancel", "delete"))
        match verb:
            case "get":
                answer = self._try(lambda: http.get(url, headers=headers))
            case "cancel":
                answer = self._try(lambda: http.post(f"{url}/cancel", headers=headers))
            case _:
                answer = self._try(lambda: http.delete(url, headers=headers))
        if isinstance(answer, httpx.Response) and answer.status_code < 500:
            self.seen.foreign_polls += 1
            if answer.status_code != 404:
                self.seen.foreign_leaks.append(f"{job_id} answered {verb} of another's key {answer.status_code}")

    def _note(self, job_id: str, answer: httpx.Response, asked_at: float) -> None:
        with self._lock:
            if job_id in self._changing or asked_at <= self._changed_at.get(job_id, 0.0) or answer.status_code >= 500:
                return
            self.seen.polls += 1
            deleted = job_id in self.seen.deleted_at
            if (answer.status_code == 404) != deleted:
                self.seen.end_changes.append((job_id, f"answered {answer.status_code}, deleted: {deleted}"))
            if answer.status_code != 200:
                return
            body = answer.json()
            end = (body["status"], body.get("completed_at"))
            known = self.seen.ends.get(job_id)
            if known is not None and known != end and asked_at > self._noted_at[job_id]:
                self.seen.end_changes.append((job_id, f"was seen as {known} and later as {end}"))
            if body["status"] in TERMINAL and known is None:
                self.seen.ends[job_id], self._noted_at[job_id] = end, time.time()

    def _begin_change(self, job_id: str) -> None:
        """Forget the job's end: after a retry it may end differently."""
        with self._lock:
            self._changing.add(job_id)
            self.seen.ends.pop(job_id, None)

    def _end_change(self, job_id: str) -> None:
        with self._lock:
            self._changing.discard(job_id)
            self._changed_at[job_id] = time.time()

    def _insist(self, ask: Callable[[], httpx.Response], clear: tuple[int, ...]) -> "Answers":
        answers = Answers()
        for _ in range(TRIES):
            answer = self._try(ask)
            answers.kinds[_kind(answer)] += 1
            answers.is_clear = isinstance(answer, httpx.Response) and answer.status_code in clear
            if answers.is_clear:
                break
            time.sleep(0.2)  # the pace of its tries; what was begun is finished, also after the end of the run
        return answers

    def _try(self, ask: Callable[[], httpx.Response]) -> httpx.Response | httpx.HTTPError:
        try:
            return ask()
        except httpx.HTTPError as error:
            return error

    def _url(self, rng: random.Random, job_id: str | None = None) -> str:
        url = f"{rng.choice(self._world.api_urls)}/v1/responses"
        return url if job_id is None else f"{url}/{job_id}"

    def _headers(self, tenant: int) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._world.tenants[tenant].secret}"}

    def drain(self, seconds: float) -> None:
        """Wait until every job has ended, for `seconds` at most."""
        begun = time.monotonic()
        rng = random.Random(0)
        with httpx.Client(timeout=8) as http:
            while (left := self.open_jobs()) and time.monotonic() - begun < seconds:
                for job_id in left:
                    with suppress(KeyError):
                        self.look(http, job_id, self.seen.acknowledged[job_id], rng)
                self._over.wait(0.3)
        self.seen.open_at_the_end = left
        self.seen.drain_seconds = time.monotonic() - begun


def _kind(answer: httpx.Response | httpx.HTTPError) -> str:
    return type(answer).__name__ if isinstance(answer, httpx.HTTPError) else str(answer.status_code)
