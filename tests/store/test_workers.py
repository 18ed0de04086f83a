"""Worker rows and leases: who lives, who fell silent, and what they left behind."""

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
from jobs.store.leases import take_lease
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
LOST = Failure(ErrorKind.LOST, "The worker fell silent.")


def live(records: Records) -> list[str]:
    with records.database.read() as tx:
        return [worker.id for worker in live_workers(tx, records.clock(), TIMEOUT)]


def give_up(records: Records) -> list[str]:
    with records.database.begin() as tx:
        return mark_silent_dead(tx, records.clock(), TIMEOUT)


def behind(records: Records, limit: int = 100) -> tuple[set[str], set[tuple[str, int]]]:
    with records.database.read() as tx:
        held, opened = orphaned(tx, limit)
    return {job.id for job in held}, {(attempt.job_id, attempt.number) for attempt in opened}


class TestLife:
    def test_a_registered_worker_lives(self, records: Records, clock: Clock) -> None:
        with records.database.begin() as tx:
            worker_id = register(tx, "host-b", 12, 34, clock())
            row = live_workers(tx, clock(), TIMEOUT)[-1]
        assert (row.id, row.host, row.pid, row.concurrency) == (worker_id, "host-b", 12, 34)
        assert (row.started_at, row.heartbeat_at, row.draining_at, row.ended_at) == (clock(), clock(), None, None)

    def test_each_beat_buys_a_timeout(self, records: Records, clock: Clock) -> None:
        for _ in range(3):
            clock.advance(TIMEOUT)
            assert live(records) == [records.worker_id]
            assert give_up(records) == []
            with records.database.begin() as tx:
                assert heartbeat(tx, records.worker_id, clock())
        clock.advance(TIMEOUT + timedelta(microseconds=1))
        assert live(records) == []
        assert give_up(records) == [records.worker_id]

    def test_who_was_given_up_learns_it_from_the_heartbeat(self, records: Records, clock: Clock) -> None:
        clock.advance(2 * TIMEOUT)
        assert give_up(records) == [records.worker_id]
        assert give_up(records) == []
        with records.database.begin() as tx:
            assert not heartbeat(tx, records.worker_id, clock())
            assert not heartbeat(tx, "wrk_unknown", clock())
        assert live(records) == []

    def test_who_leaves_is_no_longer_listed_or_given_up(self, records: Records, clock: Clock) -> None:
        with records.database.begin() as tx:
            leave(tx, records.worker_id, clock())
            assert not heartbeat(tx, records.worker_id, clock())
        assert live(records) == []
        clock.advance(2 * TIMEOUT)
        assert give_up(records) == []

    def test_slots_are_those_of_live_workers_that_still_claim(self, records: Records, clock: Clock) -> None:
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

    def test_a_worker_is_given_up_by_one_rescuer(self, records: Records, clock: Clock) -> None:
        for _ in range(20):
            worker_id = records.worker()
            clock.advance(2 * TIMEOUT)
            given_up = race(lambda: give_up(records), lambda: give_up(records))
            assert [each for names in given_up for each in names].count(worker_id) == 1


class TestOrphaned:
    def test_a_living_worker_leaves_nothing_behind(self, records: Records) -> None:
        records.job_in(Status.IN_PROGRESS)
        assert behind(records) == (set(), set())

    def test_jobs_held_and_calls_open_under_the_silent(self, records: Records, clock: Clock) -> None:
        held = records.job_in(Status.IN_PROGRESS)
        cancelled, _attempt = records.claim(records.submit_job())
        records.move(Verb.CANCEL, cancelled)
        records.job_in(Status.COMPLETED)
        clock.advance(2 * TIMEOUT)
        others, _ = records.claim(records.submit_job(), records.worker())
        give_up(records)
        assert behind(records) == ({held.id}, {(held.id, 1), (cancelled.id, 1)})
        assert behind(records) == ({held.id}, {(held.id, 1), (cancelled.id, 1)}), "a rescuer may die and be followed"
        for job_id in (held.id, cancelled.id):
            with records.database.begin() as tx:
                close_lost(tx, job_id, 1, clock(), LOST)
        records.move(Verb.RESCUE, held)
        assert behind(records) == (set(), set())
        assert records.reload(others).status is Status.IN_PROGRESS

    def test_a_rescued_job_that_runs_elsewhere_is_left_alone(self, records: Records, clock: Clock) -> None:
        job = records.job_in(Status.IN_PROGRESS)
        clock.advance(2 * TIMEOUT)
        give_up(records)
        rescued = records.move(Verb.RESCUE, job)
        records.claim(rescued, records.worker())
        held, opened = behind(records)
        assert held == set()
        assert opened == {(job.id, 1)}

    def test_a_large_estate_is_taken_in_parts(self, records: Records, clock: Clock) -> None:
        jobs = [records.job_in(Status.IN_PROGRESS) for _ in range(5)]
        with records.database.begin() as tx:
            leave(tx, records.worker_id, clock())
        held, opened = behind(records, limit=3)
        assert (len(held), len(opened)) == (3, 3)
        assert held <= {job.id for job in jobs}


class TestForget:
    def test_old_rows_go_unless_something_is_left(self, records: Records, clock: Clock) -> None:
        with_a_job = records.worker_id
        records.job_in(Status.IN_PROGRESS)
        idle, recent, living = records.worker(), records.worker(), records.worker()
        with records.database.begin() as tx:
            leave(tx, with_a_job, clock())
            leave(tx, idle, clock())
        clock.advance(PRUNE_AFTER + SECOND)
        with records.database.begin() as tx:
            leave(tx, recent, clock())
            assert prune_workers(tx, clock()) == 1
            assert prune_workers(tx, clock()) == 0
            assert heartbeat(tx, living, clock())
        assert len(behind(records)[0]) == 1


def test_after_a_clock_was_set_back_who_has_not_beaten_since_is_given_up(records: Records, clock: Clock) -> None:
    dead, living = records.worker(), records.worker()
    clock.advance(-HOUR)
    with records.database.begin() as tx:
        assert heartbeat(tx, living, clock())
        assert mark_silent_dead(tx, clock(), TIMEOUT) == []
        assert {*mark_silent_dead(tx, clock(), TIMEOUT, was_set=True)} == {records.worker_id, dead}


class TestLease:
    def take(self, records: Records, holder: str, name: str = "maintenance") -> bool:
        with records.database.begin() as tx:
            return take_lease(tx, name, holder, records.clock(), TIMEOUT)

    def test_it_is_held_by_one(self, records: Records, clock: Clock) -> None:
        assert self.take(records, "a")
        assert not self.take(records, "b")
        assert self.take(records, "b", "another lease")
        clock.advance(TIMEOUT - SECOND)
        assert not self.take(records, "b")

    def test_its_holder_renews_it(self, records: Records, clock: Clock) -> None:
        for _ in range(3):
            assert self.take(records, "a")
            clock.advance(TIMEOUT - SECOND)
            assert not self.take(records, "b")

    def test_run_out_it_goes_to_the_next(self, records: Records, clock: Clock) -> None:
        assert self.take(records, "a")
        clock.advance(TIMEOUT)
        assert self.take(records, "b")
        assert not self.take(records, "a")

    def test_a_clock_that_is_set_back_does_not_leave_it_to_a_dead_holder(self, records: Records, clock: Clock) -> None:
        assert self.take(records, "a")
        clock.advance(-HOUR)
        assert self.take(records, "b")
        assert not self.take(records, "a")

    def test_of_two_that_reach_for_it_one_gets_it(self, records: Records, clock: Clock) -> None:
        for _ in range(20):
            taken = race(lambda: self.take(records, "a"), lambda: self.take(records, "b"))
            assert sorted(taken) == [False, True]
            clock.advance(2 * TIMEOUT)


def test_only_what_a_worker_holds_neither_before_the_look_nor_after_it_is_handed_back(
    records: Records, clock: Clock, valkey_url: str
) -> None:
    """One call may end while ten thousand claims are read, another may have begun: its claim was heard at last."""
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
def test_a_call_that_was_broken_off_cost_nothing_only_if_no_byte_of_it_was_sent(
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
    """Its greenlet was killed, for one, and nothing was recorded."""
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
    """Calls that hold something else each time that they are asked."""

    def __init__(self, held: Iterator[set[tuple[str, int]]]) -> None:
        super().__init__(on_end=lambda: None)
        self._held = held

    def attempts(self) -> set[tuple[str, int]]:
        return next(self._held)


def test_the_databases_clock_is_aware_and_moves_within_a_transaction(database: Database) -> None:
    with database.begin() as tx:
        first = database_now(tx)
        assert first.utcoffset() == timedelta(0)
        await_until(lambda: database_now(tx) > first, 1, "it stands still")
