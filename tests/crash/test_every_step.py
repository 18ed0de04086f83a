"""A worker is killed at every step of an attempt; another takes over, and rows and the provider's calls agree."""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from jobs.backoff import Backoff
from jobs.cancel_reason import AbortReason
from jobs.celery_app import create_celery
from jobs.event_stream import OnEvents
from jobs.job import CallReport, Job, OnUnknownOutcome, Outcome
from jobs.lifecycle import Status
from jobs.model_catalog import Catalogue, Model
from jobs.notifications import Notifier
from jobs.redis_url import connect
from jobs.settings import load_settings
from jobs.store.attempts import attempts_of
from jobs.store.database import Database
from jobs.store.provider_limits import ProviderLimitSettings
from jobs.store.workers import register
from jobs.task_queue import TaskQueue
from tests.support.clock import Clock
from tests.support.names import get_names
from tests.support.records import MODEL, Records, snapshot
from tests.support.stack import Process
from tests.support.waiting import await_until
from worker.executor import Executor
from worker.in_flight import InFlightCalls
from worker.live_stream import LiveLog
from worker.maintenance import deadlines, rescuer
from worker.outcome import Policy
from worker.pending_outcomes import PendingOutcomes
from worker.provider.call_handle import CallHandle
from worker.provider.client import ProviderClient
from worker.provider_limiter import ProviderLimiter
from worker.registration import WorkerRegistration

pytestmark = pytest.mark.long

SECOND = timedelta(seconds=1)
PROVIDER_KEY = SecretStr("a-key")
WORKER_TIMEOUT = timedelta(seconds=10)
POLICY = Policy(Backoff(SECOND, SECOND), call_deadline=timedelta(seconds=30), widen_on_overflow=False)


class Step(Enum):
    """The step at which the worker dies."""

    CLAIMING = auto()
    CLAIMED = auto()
    SENT = auto()
    ANSWERED = auto()
    RECORDING = auto()
    RECORDED = auto()
    PUBLISHED = auto()


class Killed(BaseException):
    """Ends the worker. No handler may clean up after it, as after SIGKILL."""


class DyingDatabase(Database):
    """Kills the worker within or right after one of its write transactions."""

    def __init__(self, url: str, step: Step) -> None:
        super().__init__(url)
        self._number = 0
        self._within = {Step.CLAIMING: 1, Step.RECORDING: 2}.get(step)
        self._after = {Step.CLAIMED: 1, Step.RECORDED: 2}.get(step)

    @contextmanager
    def begin(self, **limits: Any) -> Iterator[Connection]:
        self._number += 1
        with super().begin(**limits) as tx:
            yield tx
            if self._number == self._within:
                raise Killed
        if self._number == self._after:
            raise Killed


class BlinkingDatabase(Database):
    """A database that is away for one read, as during a restart."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._is_away = True

    @contextmanager
    def read(self, **limits: Any) -> Iterator[Connection]:
        if self._is_away:
            self._is_away = False
            raise OperationalError("SELECT", None, ConnectionError())
        with super().read(**limits) as tx:
            yield tx


class UnconfirmingDatabase(Database):
    """A database that commits, and loses the connection before it confirms."""

    @contextmanager
    def begin(self, **limits: Any) -> Iterator[Connection]:
        with super().begin(**limits) as tx:
            yield tx
        raise OperationalError("COMMIT", None, ConnectionError())


class DyingProvider(ProviderClient):
    """Kills the worker while the call runs, or as soon as its answer has arrived."""

    def __init__(self, world: "World", step: Step) -> None:
        super().__init__(f"{world.provider_url}/v1", PROVIDER_KEY)
        self._world = world
        self._step = step

    def call(
        self,
        body: dict[str, Any],
        *,
        request_id: str,
        model: Model,
        deadline: timedelta,
        handle: CallHandle,
        accepted: Callable[[str], None],
        on_events: OnEvents | None = None,
        emitted: Collection[str] = (),
    ) -> CallReport:
        calling = partial(
            super().call,
            body,
            request_id=request_id,
            model=model,
            deadline=deadline,
            handle=handle,
            accepted=accepted,
            on_events=on_events,
            emitted=emitted,
        )
        if self._step is Step.SENT:
            self._die_waiting(calling, request_id, handle)
        report = calling()
        if self._step is Step.ANSWERED:
            raise Killed
        return report

    def _die_waiting(self, calling: Callable[[], CallReport], request_id: str, handle: CallHandle) -> None:
        thread = Thread(target=calling, daemon=True)
        thread.start()
        await_until(lambda: self._world.calls(request_id), 10, "the call never arrived")
        handle.abort(AbortReason.RELEASED)  # the operating system closes the sockets of a dead process
        thread.join()
        raise Killed


class DyingNotifier(Notifier):
    def ended(self, job_ids: Sequence[str], delivery_ids: Sequence[str]) -> None:
        super().ended(job_ids, delivery_ids)
        raise Killed


class DyingTaskQueue(TaskQueue):
    def enqueue(self, job_ids: Sequence[str]) -> int:
        super().enqueue(job_ids)
        raise Killed


@pytest.fixture(scope="module")
def provider_url() -> Iterator[str]:
    simulator = Process("simulator", [sys.executable, "-m", "simulator", "--port", "0", "--delay", "0.05"], {})
    yield simulator.match(r"listening on (http://\S+)")[1]
    simulator.stop()


@dataclass
class World:
    """A worker that dies, one that survives, and the provider."""

    database: Database
    records: Records
    clock: Clock
    valkey_url: str
    provider_url: str
    folder: Path

    def run_attempt(self, job: Job, dies_at: Step) -> None:
        settings = load_settings(redis_url=self.valkey_url, data_dir="unused")
        task_queue = DyingTaskQueue if dies_at is Step.PUBLISHED else TaskQueue
        notifier = DyingNotifier if dies_at is Step.PUBLISHED else Notifier
        database = DyingDatabase(self.database.url.render_as_string(hide_password=False), dies_at)
        try:
            executor = self._executor(
                database, DyingProvider(self, dies_at), task_queue(create_celery(settings), get_names), notifier
            )
            executor.run(job.id)
        finally:
            database.close()

    def run_while_the_database_blinks(self, job: Job) -> None:
        settings = load_settings(redis_url=self.valkey_url, data_dir="unused")
        database = BlinkingDatabase(self.database.url.render_as_string(hide_password=False))
        provider = ProviderClient(f"{self.provider_url}/v1", PROVIDER_KEY)
        self._executor(database, provider, TaskQueue(create_celery(settings), get_names), Notifier).run(job.id)
        database.close()

    def lose_the_confirmation_of_a_claim(self, job: Job) -> None:
        settings = load_settings(redis_url=self.valkey_url, data_dir="unused")
        database = UnconfirmingDatabase(self.database.url.render_as_string(hide_password=False))
        provider = ProviderClient(f"{self.provider_url}/v1", PROVIDER_KEY)
        task_queue = TaskQueue(create_celery(settings), get_names)
        self._executor(database, provider, task_queue, Notifier).run(job.id)
        database.close()
        claimed = self.records.reload(job)
        assert claimed.worker_id is not None, "the claim was not committed"
        now = self.clock.advance(rescuer.ORPHAN_AGE + SECOND)
        notifier = Notifier(connect(self.valkey_url), get_names)
        assert (
            rescuer.rescue_orphans(
                self.database, task_queue, notifier, now, claimed.worker_id, InFlightCalls(lambda: None)
            )
            == 1
        )

    def _executor(
        self, database: Database, provider: ProviderClient, task_queue: TaskQueue, notifier: type[Notifier]
    ) -> Executor:
        silent_since = datetime.now(UTC) - WORKER_TIMEOUT - SECOND
        with self.database.begin() as tx:
            worker_id = register(tx, "a-host", 4711, 10, silent_since)
        publisher = notifier(connect(self.valkey_url), get_names)
        return Executor(
            database,
            provider,
            POLICY,
            registration=WorkerRegistration(database, 10, worker_id),
            provider_limit=ProviderLimiter(
                database, ProviderLimitSettings(self.provider_url), WORKER_TIMEOUT, self.clock
            ),
            calls=InFlightCalls(on_end=lambda: None),
            live=LiveLog(database, publisher),
            pending_outcomes=PendingOutcomes(self.folder),
            catalogue=Catalogue([MODEL]),
            task_queue=task_queue,
            notifier=publisher,
            clock=self.clock,
            jitter=lambda: 0.5,
        )

    def take_over(self, job: Job) -> Job:
        """Let another worker's maintenance and slots finish the job."""
        settings = load_settings(redis_url=self.valkey_url, data_dir="unused")
        task_queue, notifier = (
            TaskQueue(create_celery(settings), get_names),
            Notifier(connect(self.valkey_url), get_names),
        )
        survivor = ProviderClient(f"{self.provider_url}/v1", PROVIDER_KEY)
        for _ in range(4):
            now = self.clock.advance(WORKER_TIMEOUT)
            rescuer.run_once(self.database, task_queue, notifier, now, WORKER_TIMEOUT)
            deadlines.run_once(self.database, notifier, now)
            self._executor(self.database, survivor, task_queue, Notifier).run(job.id)
            if (current := self.records.reload(job)).status.is_terminal:
                break
        return current

    def calls(self, request_id: str) -> list[dict[str, Any]]:
        query = {"client_request_id_prefix": request_id}
        calls: list[dict[str, Any]] = httpx.get(f"{self.provider_url}/_calls", params=query).json()["calls"]
        return calls

    def outcomes(self, job: Job) -> list[Outcome | None]:
        with self.database.read() as tx:
            return [attempt.outcome for attempt in attempts_of(tx, job.id)]


@pytest.fixture
def world(
    database: Database, records: Records, clock: Clock, valkey_url_of_module: str, provider_url: str, tmp_path: Path
) -> World:
    return World(database, records, clock, valkey_url_of_module, provider_url, tmp_path)


LOST, COMPLETED, FAILED = Outcome.LOST, Outcome.COMPLETED, Outcome.FAILED
# step -> outcomes of the attempts and number of calls: for a job that wants a retry, and for one that does not
EXPECTED = {
    Step.CLAIMING: ([COMPLETED], 1, [COMPLETED], 1),
    Step.CLAIMED: ([LOST, COMPLETED], 1, [LOST], 0),
    Step.SENT: ([LOST, COMPLETED], 2, [LOST], 1),
    Step.ANSWERED: ([LOST, COMPLETED], 2, [LOST], 1),
    Step.RECORDING: ([LOST, COMPLETED], 2, [LOST], 1),
    Step.RECORDED: ([COMPLETED], 1, [COMPLETED], 1),
    Step.PUBLISHED: ([COMPLETED], 1, [COMPLETED], 1),
}


@pytest.mark.parametrize("policy", list(OnUnknownOutcome))
@pytest.mark.parametrize("step", list(Step))
def test_a_job_ends_once_wherever_its_worker_is_killed(step: Step, policy: OnUnknownOutcome, world: World) -> None:
    job = world.records.submit_job(input="[[sim: full]] Hello", on_unknown_outcome=policy)
    with pytest.raises(Killed):
        world.run_attempt(job, dies_at=step)
    ended = world.take_over(job)
    outcomes, calls = EXPECTED[step][:2] if policy is OnUnknownOutcome.RETRY else EXPECTED[step][2:]
    assert world.outcomes(job) == outcomes
    assert len(world.calls(job.id)) == calls <= len(outcomes)
    assert ended.status is (Status.COMPLETED if outcomes[-1] is COMPLETED else Status.FAILED)
    assert ended.error_code == (None if ended.status is Status.COMPLETED else "outcome_unknown")
    booked = sum(round(call["cost_usd"] * 1_000_000) for call in world.calls(job.id)[-1:])
    assert (ended.cost.microusd if ended.cost else 0) == (booked if ended.status is Status.COMPLETED else 0)
    before = _rows_of_jobs(world)
    world.take_over(job)
    assert _rows_of_jobs(world) == before, "it changed after its end"


@pytest.mark.parametrize("step", list(Step))
def test_a_failed_attempt_is_followed_by_one_more_wherever_its_worker_is_killed(step: Step, world: World) -> None:
    job = world.records.submit_job(input="[[sim: 503, then full]] Hello")
    with pytest.raises(Killed):
        world.run_attempt(job, dies_at=step) if step is not Step.PUBLISHED else _publish_a_retry(world, job)
    ended = world.take_over(job)
    assert ended.status is Status.COMPLETED
    outcomes = world.outcomes(job)
    calls = world.calls(job.id)
    assert outcomes[-1] is COMPLETED
    assert {*outcomes[:-1]} <= {LOST, FAILED}
    assert len({call["client_request_id"] for call in calls}) == len(calls) == 2
    assert len(outcomes) == (3 if step is Step.CLAIMED else 2)


@pytest.mark.parametrize("policy", list(OnUnknownOutcome))
def test_a_database_that_is_away_before_a_call_is_sent_costs_the_job_no_attempt(
    policy: OnUnknownOutcome, world: World
) -> None:
    job = world.records.submit_job(input="[[sim: full]] Hello", on_unknown_outcome=policy, max_attempts=1)
    world.run_while_the_database_blinks(job)
    assert world.records.reload(job).status is Status.QUEUED
    assert world.take_over(job).status is Status.COMPLETED
    assert world.outcomes(job) == [Outcome.RELEASED, COMPLETED]
    assert len(world.calls(job.id)) == 1


@pytest.mark.parametrize("policy", list(OnUnknownOutcome))
def test_a_claim_that_is_never_confirmed_costs_the_job_no_attempt(policy: OnUnknownOutcome, world: World) -> None:
    job = world.records.submit_job(input="[[sim: full]] Hello", on_unknown_outcome=policy, max_attempts=1)
    world.lose_the_confirmation_of_a_claim(job)
    assert world.records.reload(job).status is Status.QUEUED
    assert world.take_over(job).status is Status.COMPLETED
    assert world.outcomes(job) == [Outcome.RELEASED, COMPLETED]
    assert len(world.calls(job.id)) == 1


def _publish_a_retry(world: World, job: Job) -> None:
    """Run an attempt whose retry is due later. No task_queue is sent for it, so the worker dies after its last step."""
    world.run_attempt(job, dies_at=Step.PUBLISHED)
    raise Killed


def _rows_of_jobs(world: World) -> dict[str, list[tuple[Any, ...]]]:
    return {name: rows for name, rows in snapshot(world.database).items() if name not in ("workers", "leases")}
