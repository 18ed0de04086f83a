"""A lock that another session holds delays only the jobs whose rows it locks."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from random import Random

import httpcore
import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from jobs.job import OnUnknownOutcome
from jobs.lifecycle import Status
from jobs.store import schema
from jobs.store.api_keys import ensure_bootstrap_key
from jobs.store.database import Database, database_now
from jobs.store.fair_scheduler import FairScheduler
from jobs.store.leases import take_lease
from jobs.store.provider_limits import ProviderLimitSettings
from jobs.store.reconciliation import NO_LOG_WAIT
from jobs.store.webhooks.endpoints import EncryptedSecret, create_endpoint
from jobs.store.workers import mark_silent_dead
from jobs.webhooks.protocol import EventType
from tests.chaos.proxy import Proxy
from tests.support.clock import Clock
from tests.support.dead_broker import DeadBroker, FakeNotifier
from tests.support.records import Records, make_key
from tests.support.sessions import another_session, quickly
from tests.support.waiting import await_until
from worker.claim import Claimer
from worker.in_flight import InFlightCalls
from worker.maintenance import deadlines, rescuer
from worker.maintenance.loop import Maintenance
from worker.provider.call_handle import CallHandle
from worker.provider_limiter import ProviderLimiter
from worker.registration import WorkerRegistration

SECOND = timedelta(seconds=1)
TIMEOUT = 10 * SECOND


@pytest.fixture
def database(postgres_database: Database) -> Database:
    """Only PostgreSQL has row locks and these limits, so `records` uses it."""
    return postgres_database


def rescue(records: Records) -> None:
    rescuer.run_once(records.database, DeadBroker(), FakeNotifier(), records.clock(), TIMEOUT)


def expire(records: Records) -> None:
    deadlines.run_once(records.database, FakeNotifier(), records.clock())


def statuses(records: Records) -> dict[str, Status]:
    with records.database.read() as tx:
        return {row.id: Status(row.status) for row in tx.execute(select(schema.jobs.c.id, schema.jobs.c.status))}


@pytest.mark.parametrize(
    ("begun", "task", "span", "moved"),
    [
        (Status.IN_PROGRESS, rescue, 2 * TIMEOUT, Status.QUEUED),
        (Status.IN_PROGRESS, expire, timedelta(days=9), Status.FAILED),
        (Status.QUEUED, expire, timedelta(days=9), Status.FAILED),
    ],
)
@pytest.mark.parametrize("locked", ["jobs", "webhook_endpoints"])
def test_a_locked_row_delays_no_other_job(
    records: Records,
    clock: Clock,
    begun: Status,
    task: Callable[[Records], None],
    span: timedelta,
    moved: Status,
    locked: str,
) -> None:
    """The lock is on the job's row, or on that of an endpoint subscribed to its end."""
    other = make_key(records.database, "another key", clock())
    with records.database.begin() as tx:
        create_endpoint(
            tx,
            other.id,
            name="hook",
            url="https://example.com/",
            target="a target",
            event_types=list(EventType),
            secret=EncryptedSecret("encrypted", "hint"),
            now=clock(),
        )
    stuck = records.submit_job(other)
    free = [records.submit_job() for _ in range(5)]
    if begun is Status.IN_PROGRESS:
        for each in (stuck, *free):
            records.claim(each)
    clock.advance(span)
    waits = locked == "jobs" or moved is Status.FAILED
    with another_session(
        records.database,
        f"SELECT 1 FROM {locked} WHERE %s IN (id, api_key_id) FOR UPDATE",
        stuck.id if locked == "jobs" else other.id,
    ):
        with quickly():
            task(records)
        found = statuses(records)
    assert {found[each.id] for each in free} == {moved}
    assert found[stuck.id] is (begun if waits else moved)
    task(records)
    assert statuses(records)[stuck.id] is moved


def test_a_sent_call_still_counts_as_sent_after_a_lock_on_its_job_is_released(records: Records, clock: Clock) -> None:
    """The call was broken off in its worker. That it was sent must be remembered if the lock stops the first rescue."""
    worker_id = records.worker()
    calls = InFlightCalls(on_end=lambda: None)
    broken = [records.claim(records.submit_job(on_unknown_outcome=OnUnknownOutcome.FAIL), worker_id) for _ in range(2)]
    for _, attempt in broken:
        handle = CallHandle()
        post = httpcore.Request("POST", "https://host/v1/responses")
        handle.trace("http11.send_request_headers.started", {"request": post})
        calls.break_off(calls.begin(attempt, handle, SECOND))
    now = clock.advance(rescuer.ORPHAN_AGE + SECOND)

    def rescue_orphans() -> int:
        return rescuer.rescue_orphans(records.database, DeadBroker(), FakeNotifier(), now, worker_id, calls)

    (stuck, _), (free, _) = broken
    with another_session(records.database, "SELECT 1 FROM jobs WHERE id = %s FOR UPDATE", stuck.id):
        with quickly():
            assert rescue_orphans() == 1
        found = statuses(records)
    assert (found[stuck.id], found[free.id]) == (Status.IN_PROGRESS, Status.FAILED)
    assert rescue_orphans() == 1
    assert statuses(records)[stuck.id] is Status.FAILED


def test_other_jobs_are_enqueued_while_a_job_and_a_key_are_locked(records: Records, clock: Clock) -> None:
    jobs = [records.submit_job() for _ in range(3)]
    scheduler = FairScheduler()

    def pick() -> list[str]:
        with records.database.begin() as tx:
            return scheduler.pick(tx, clock(), 1, clock() - SECOND)

    with (
        another_session(records.database, "SELECT 1 FROM jobs WHERE id = %s FOR UPDATE", jobs[0].id),
        another_session(records.database, "SELECT 1 FROM api_keys FOR UPDATE"),
        quickly(),
    ):
        assert pick() == []  # the first in the queue is the locked one
        assert pick() == [jobs[1].id]
        assert pick() == [jobs[2].id]
    clock.advance(TIMEOUT)
    assert pick() == [jobs[0].id]


def test_a_locked_lease_does_not_stop_maintenance(records: Records) -> None:
    with records.database.begin() as tx:
        take_lease(tx, "maintenance", "a worker that is gone", database_now(tx) - SECOND, SECOND)
    overdue = records.submit_job()  # for the clock of today
    loop = Maintenance(
        records.database,
        WorkerRegistration(records.database, 1, records.worker_id),
        DeadBroker(),
        FakeNotifier(),
        provider_limit=ProviderLimitSettings("provider_limit"),
        worker_timeout=timedelta(days=1),
        retention=timedelta(days=1),
        max_wait=NO_LOG_WAIT,
    )
    with another_session(records.database, "SELECT 1 FROM leases FOR UPDATE"), quickly():
        loop.run_once()
    assert statuses(records)[overdue.id] is Status.FAILED


def test_a_worker_whose_row_is_locked_is_not_marked_dead(records: Records, clock: Clock) -> None:
    silent = records.worker()
    clock.advance(2 * TIMEOUT)
    with (
        another_session(records.database, "SELECT 1 FROM workers WHERE id = %s FOR UPDATE", records.worker_id),
        quickly(),
        records.database.begin() as tx,
    ):
        assert mark_silent_dead(tx, clock(), TIMEOUT) == [silent]


def test_an_api_starts_while_its_own_key_is_locked(database: Database) -> None:
    """No API started while a person's transaction held the lock on the bootstrap key's row."""
    now = datetime.now(UTC)
    with database.begin() as tx:
        made = ensure_bootstrap_key(tx, "bb_one", now)
    with (
        another_session(database, "SELECT 1 FROM api_keys FOR UPDATE"),
        quickly(),
        database.begin() as tx,
    ):
        assert ensure_bootstrap_key(tx, "bb_one", now) == made


def test_the_session_that_blocks_others_is_named(records: Records) -> None:
    with capture_logs() as logged, another_session(records.database, "SELECT 1 FROM api_keys FOR UPDATE") as session:

        def is_named() -> bool:
            with pytest.raises(OperationalError):
                records.submit_job()
            return any(each["event"] == "session blocks others" for each in logged)

        await_until(is_named, 10, "no session is named")
        named = next(each for each in logged if each["event"] == "session blocks others")
        assert (named["pid"], named["application"]) == (session.info.backend_pid, "somebody")
        assert (named["state"], named["tables"]) == ("idle in transaction", "api_keys")


class TestBatches:
    """A worker's claims share a transaction, as do its outcomes."""

    @contextmanager
    def _claims(self, records: Records, url: str) -> Iterator[Claimer]:
        opened = Database(url)
        registration = WorkerRegistration(opened, 10, records.worker_id)
        yield Claimer(
            opened,
            registration,
            ProviderLimiter(opened, ProviderLimitSettings("provider_limit"), TIMEOUT, records.clock),
            records.clock,
        )
        opened.close()

    def test_a_silent_connection_delays_no_other_claim(
        self, database: Database, postgres_url: str, clock: Clock
    ) -> None:
        records = Records(database, clock)
        first, stuck, *others = [records.submit_job().id for _ in range(6)]
        proxy, through = Proxy.before(postgres_url)
        with proxy, ThreadPoolExecutor(8) as pool, self._claims(records, through) as claims:
            assert claims.claim(first) is not None
            assert proxy.silence() == 1
            sent = len(proxy.passages[0].head)
            late = pool.submit(claims.claim, stuck)
            await_until(lambda: len(proxy.passages[0].head) > sent, 5, "no claim is under proxy")
            with quickly():
                assert all(pool.map(claims.claim, others))
            proxy.cut(1, Random(0))
            assert late.result(30) is None

    def test_a_locked_row_delays_no_other_claim(self, records: Records) -> None:
        stuck, *others = [records.submit_job().id for _ in range(5)]
        url = records.database.url.render_as_string(hide_password=False)
        with self._claims(records, url) as claims, ThreadPoolExecutor(8) as pool:
            with another_session(records.database, "SELECT 1 FROM jobs WHERE id = %s FOR UPDATE", stuck):
                late = pool.submit(claims.claim, stuck)
                with quickly():
                    assert all(pool.map(claims.claim, others))
                assert late.result(30) is None
            assert claims.claim(stuck) is not None
