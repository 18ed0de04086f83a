"""Worker rows: live workers, dead ones, and the jobs that they leave behind."""

from collections.abc import Iterator
from datetime import timedelta

import httpcore
import pytest

from jobs.celery_app import create_celery
from jobs.errors import Billed, ErrorKind, Failure
from jobs.job import OnUnknownOutcome, Outcome
from jobs.lifecycle import Status, Verb
from jobs.notifications import Notifier
from jobs.redis_url import connect
from jobs.settings import load_settings
from jobs.store.attempts import attempts_of, close_lost
from jobs.store.database import Database, database_now
from jobs.store.workers import (
    PRUNE_AFTER,
    heartbeat,
    leave,
    live_slots,
    live_workers,
    mark_silent_dead,
    orphaned,
    prune_workers,
    register,
)
from jobs.task_queue import TaskQueue
from tests.support.clock import Clock
from tests.support.names import get_names
from tests.support.racing import race
from tests.support.records import Records
from tests.support.waiting import await_until
from worker.in_flight import InFlightCalls
from worker.maintenance import rescuer
from worker.provider.call_handle import CallHandle

SECOND = timedelta(seconds=1)
TIMEOUT = 10 * SECOND
HOUR = timedelta(hours=1)
LOST = Failure(ErrorKind.LOST, "The worker is dead.")


def live(records: Records) -> list[str]:
    with records.database.read() as tx:
        return [worker.id for worker in live_workers(tx, records.clock(), TIMEOUT)]


def mark_dead(records: Records) -> list[str]:
    with records.database.begin() as tx:
        return mark_silent_dead(tx, records.clock(), TIMEOUT)


def left_behind(records: Records, limit: int = 100) -> tuple[set[str], set[tuple[str, int]]]:
    with records.database.read() as tx:
        held, opened = orphaned(tx, limit)
    return {job.id for job in held}, {(attempt.job_id, attempt.number) for attempt in opened}


class TestHeartbeat:
    def test_a_registered_worker_is_live(self, records: Records, clock: Clock) -> None:
        with records.database.begin() as tx:
            worker_id = register(tx, "host-b", 12, 34, clock())
            row = live_workers(tx, clock(), TIMEOUT)[-1]
        assert (row.id, row.host, row.pid, row.concurrency) == (worker_id, "host-b", 12, 34)
        assert (row.started_at, row.heartbeat_at, row.draining_at, row.ended_at) == (clock(), clock(), None, None)

    def test_each_heartbeat_keeps_it_live_for_a_timeout(self, records: Records, clock: Clock) -> None:
        for _ in range(3):
            clock.advance(TIMEOUT)
            assert live(records) == [records.worker_id]
            assert mark_dead(records) == []
            with records.database.begin() as tx:
                assert heartbeat(tx, records.worker_id, clock())
        clock.advance(TIMEOUT + timedelta(microseconds=1))
        assert live(records) == []
        assert mark_dead(records) == [records.worker_id]

    def test_a_worker_marked_dead_learns_it_from_its_heartbeat(self, records: Records, clock: Clock) -> None:
        clock.advance(2 * TIMEOUT)
        assert mark_dead(records) == [records.worker_id]
        assert mark_dead(records) == []
        with records.database.begin() as tx:
            assert not heartbeat(tx, records.worker_id, clock())
            assert not heartbeat(tx, "wrk_unknown", clock())
        assert live(records) == []

    def test_a_worker_that_leaves_is_not_listed_or_marked_dead(self, records: Records, clock: Clock) -> None:
        with records.database.begin() as tx:
            leave(tx, records.worker_id, clock())
            assert not heartbeat(tx, records.worker_id, clock())
        assert live(records) == []
        clock.advance(2 * TIMEOUT)
        assert mark_dead(records) == []

    def test_slots_are_those_of_live_workers_that_are_not_draining(self, records: Records, clock: Clock) -> None:
        draining = records.worker(concurrency=7)
        records.worker(concurrency=100)
        with records.database.read() as tx:
            assert live_slots(tx, clock(), TIMEOUT) == 117
        drained_at = clock.advance(SECOND)
        with records.database.begin() as tx:
            assert heartbeat(tx, draining, clock(), draining=True)
        clock.advance(SECOND)
        with records.database.begin() as tx:
            assert heartbeat(tx, draining, clock(), draining=True)
            assert live_slots(tx, clock(), TIMEOUT) == 110
            row = next(worker for worker in live_workers(tx, clock(), TIMEOUT) if worker.id == draining)
        assert (row.draining_at, row.heartbeat_at) == (drained_at, clock())
        clock.advance(TIMEOUT)
        with records.database.read() as tx:
            assert live_slots(tx, clock(), TIMEOUT) == 0

    def test_a_worker_is_marked_dead_by_one_rescuer(self, records: Records, clock: Clock) -> None:
        for _ in range(20):
            worker_id = records.worker()
            clock.advance(2 * TIMEOUT)
            dead = race(lambda: mark_dead(records), lambda: mark_dead(records))
            assert [each for names in dead for each in names].count(worker_id) == 1


class TestOrphaned:
    def test_a_live_worker_has_no_orphans(self, records: Records) -> None:
        records.job_in(Status.IN_PROGRESS)
        assert left_behind(records) == (set(), set())

    def test_jobs_held_and_attempts_open_under_dead_workers(self, records: Records, clock: Clock) -> None:
        held = records.job_in(Status.IN_PROGRESS)
        cancelled, _attempt = records.claim(records.submit_job())
        records.move(Verb.CANCEL, cancelled)
        records.job_in(Status.COMPLETED)
        clock.advance(2 * TIMEOUT)
        others, _ = records.claim(records.submit_job(), records.worker())
        mark_dead(records)
        assert left_behind(records) == ({held.id}, {(held.id, 1), (cancelled.id, 1)})
        assert left_behind(records) == ({held.id}, {(held.id, 1), (cancelled.id, 1)}), (
            "another rescuer must be able to go on"
        )
        for job_id in (held.id, cancelled.id):
            with records.database.begin() as tx:
                close_lost(tx, job_id, 1, clock(), LOST)
        records.move(Verb.RESCUE, held)
        assert left_behind(records) == (set(), set())
        assert records.reload(others).status is Status.IN_PROGRESS

    def test_a_rescued_job_that_runs_elsewhere_is_left_alone(self, records: Records, clock: Clock) -> None:
        job = records.job_in(Status.IN_PROGRESS)
        clock.advance(2 * TIMEOUT)
        mark_dead(records)
        rescued = records.move(Verb.RESCUE, job)
        records.claim(rescued, records.worker())
        held, opened = left_behind(records)
        assert held == set()
        assert opened == {(job.id, 1)}

    def test_many_orphans_are_returned_in_parts(self, records: Records, clock: Clock) -> None:
        jobs = [records.job_in(Status.IN_PROGRESS) for _ in range(5)]
        with records.database.begin() as tx:
            leave(tx, records.worker_id, clock())
        held, opened = left_behind(records, limit=3)
        assert (len(held), len(opened)) == (3, 3)
        assert held <= {job.id for job in jobs}


class TestPrune:
    def test_old_rows_are_deleted_unless_they_hold_a_job(self, records: Records, clock: Clock) -> None:
        with_a_job = records.worker_id
        records.job_in(Status.IN_PROGRESS)
        idle, recent, live_one = records.worker(), records.worker(), records.worker()
        with records.database.begin() as tx:
            leave(tx, with_a_job, clock())
            leave(tx, idle, clock())
        clock.advance(PRUNE_AFTER + SECOND)
        with records.database.begin() as tx:
            leave(tx, recent, clock())
            assert prune_workers(tx, clock()) == 1
            assert prune_workers(tx, clock()) == 0
            assert heartbeat(tx, live_one, clock())
        assert len(left_behind(records)[0]) == 1


def test_after_a_clock_was_set_back_a_worker_without_a_heartbeat_since_is_marked_dead(
    records: Records, clock: Clock
) -> None:
    dead, live_one = records.worker(), records.worker()
    clock.advance(-HOUR)
    with records.database.begin() as tx:
        assert heartbeat(tx, live_one, clock())
        assert mark_silent_dead(tx, clock(), TIMEOUT) == []
        assert {*mark_silent_dead(tx, clock(), TIMEOUT, was_set=True)} == {records.worker_id, dead}


def test_only_jobs_not_held_before_or_after_the_read_are_handed_back(
    records: Records, clock: Clock, valkey_url: str
) -> None:
    """While ten thousand claims are read, one call may end and another, whose claim was just confirmed, may begin."""
    worker_id = records.worker()
    ending, begun, orphan = (records.claim(records.submit_job(), worker_id)[0] for _ in range(3))
    now = clock.advance(rescuer.ORPHAN_AGE + SECOND)
    held = iter([{(ending.id, 1)}, {(begun.id, 1)}])
    message = TaskQueue(create_celery(load_settings(redis_url=valkey_url, data_dir="unused")), get_names)
    client = connect(valkey_url)
    try:
        parts = (records.database, message, Notifier(client, get_names))
        assert rescuer.rescue_orphans(*parts, now, worker_id, _Held(held)) == 1
    finally:
        message.close()
        client.close()
    statuses = [records.reload(each).status for each in (ending, begun, orphan)]
    assert statuses == [Status.IN_PROGRESS, Status.IN_PROGRESS, Status.QUEUED]


@pytest.mark.parametrize(
    ("sent", "on_unknown_outcome", "status", "outcome", "billed", "failures"),
    [
        (False, OnUnknownOutcome.FAIL, Status.QUEUED, Outcome.RELEASED, Billed.NO, 0),
        (True, OnUnknownOutcome.RETRY, Status.QUEUED, Outcome.LOST, Billed.UNKNOWN, 1),
        (True, OnUnknownOutcome.FAIL, Status.FAILED, Outcome.LOST, Billed.UNKNOWN, 1),
    ],
)
def test_a_call_that_was_broken_off_is_unbilled_only_if_nothing_was_sent(
    records: Records,
    clock: Clock,
    valkey_url: str,
    sent: bool,
    on_unknown_outcome: OnUnknownOutcome,
    status: Status,
    outcome: Outcome,
    billed: Billed,
    failures: int,
) -> None:
    """For example, its greenlet was killed before anything was recorded."""
    worker_id = records.worker()
    job, attempt = records.claim(records.submit_job(on_unknown_outcome=on_unknown_outcome), worker_id)
    calls, handle = InFlightCalls(on_end=lambda: None), CallHandle()
    running = calls.begin(attempt, handle, SECOND)
    if sent:
        post = httpcore.Request("POST", "https://host/v1/responses")
        handle.trace("http11.send_request_headers.started", {"request": post})
    calls.break_off(running)
    now = clock.advance(rescuer.ORPHAN_AGE + SECOND)
    message = TaskQueue(create_celery(load_settings(redis_url=valkey_url, data_dir="unused")), get_names)
    client = connect(valkey_url)
    try:
        assert (
            rescuer.rescue_orphans(records.database, message, Notifier(client, get_names), now, worker_id, calls) == 1
        )
    finally:
        message.close()
        client.close()
    after = records.reload(job)
    assert (after.status, after.failures) == (status, failures)
    with records.database.read() as tx:
        [closed] = attempts_of(tx, job.id)
    assert (closed.outcome, closed.billed) == (outcome, billed)


class _Held(InFlightCalls):
    """Calls that report other attempts each time they are asked."""

    def __init__(self, held: Iterator[set[tuple[str, int]]]) -> None:
        super().__init__(on_end=lambda: None)
        self._held = held

    def attempts(self) -> set[tuple[str, int]]:
        return next(self._held)


def test_the_databases_time_is_aware_and_advances_within_a_transaction(database: Database) -> None:
    with database.begin() as tx:
        first = database_now(tx)
        assert first.utcoffset() == timedelta(0)
        await_until(lambda: database_now(tx) > first, 1, "it does not advance")
