"""Leases of many workers: the holder renews it, and the others read it only after it may have expired."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from jobs.store import schema
from jobs.store.leases import take_lease
from tests.support.clock import Clock
from tests.support.plans import captured
from tests.support.racing import race
from tests.support.records import Records
from tests.support.waiting import await_until
from worker.maintenance.lease import APART_SECONDS, Lease

LONG = timedelta(hours=1)
SHORT = timedelta(seconds=0.5)
LENGTH = timedelta(seconds=10)
SECOND = timedelta(seconds=1)


class TestTakeLease:
    def take(self, records: Records, holder: str, name: str = "maintenance") -> bool:
        with records.database.begin() as tx:
            return take_lease(tx, name, holder, records.clock(), LENGTH)

    def test_it_has_one_holder(self, records: Records, clock: Clock) -> None:
        assert self.take(records, "a")
        assert not self.take(records, "b")
        assert self.take(records, "b", "another lease")
        clock.advance(LENGTH - SECOND)
        assert not self.take(records, "b")

    def test_its_holder_renews_it(self, records: Records, clock: Clock) -> None:
        for _ in range(3):
            assert self.take(records, "a")
            clock.advance(LENGTH - SECOND)
            assert not self.take(records, "b")

    def test_an_expired_lease_goes_to_the_next(self, records: Records, clock: Clock) -> None:
        assert self.take(records, "a")
        clock.advance(LENGTH)
        assert self.take(records, "b")
        assert not self.take(records, "a")

    def test_a_clock_that_is_set_back_does_not_leave_it_to_a_dead_holder(self, records: Records, clock: Clock) -> None:
        assert self.take(records, "a")
        clock.advance(-LONG)
        assert self.take(records, "b")
        assert not self.take(records, "a")

    def test_of_two_that_take_it_at_once_one_gets_it(self, records: Records, clock: Clock) -> None:
        for _ in range(20):
            taken = race(lambda: self.take(records, "a"), lambda: self.take(records, "b"))
            assert sorted(taken) == [False, True]
            clock.advance(2 * LENGTH)


def test_a_worker_that_finds_it_taken_writes_nothing_and_asks_once(records: Records) -> None:
    assert Lease(records.database, "a task", LONG).is_held_by("wrk_1")
    other = Lease(records.database, "a task", LONG)
    with captured(records.database) as statements:
        assert not any(other.is_held_by("wrk_2") for _ in range(10))
    assert [each.sql.split()[0] for each in statements] == ["SELECT"]
    assert 0 < other.seconds_of_others <= LONG.total_seconds() + APART_SECONDS


def test_an_expired_lease_is_taken_by_the_next_within_moments(records: Records) -> None:
    assert Lease(records.database, "a task", SHORT).is_held_by("wrk_1")
    other = Lease(records.database, "a task", SHORT)
    assert not other.is_held_by("wrk_2")
    assert other.seconds_of_others <= SHORT.total_seconds() + APART_SECONDS
    await_until(lambda: other.is_held_by("wrk_2"), 5, "it was not taken")


def test_after_a_step_of_the_clock_no_worker_waits_longer_than_a_lease_lasts(records: Records) -> None:
    """As a clock that was set back by hours since the lease was taken."""
    assert Lease(records.database, "a task", LONG).is_held_by("wrk_1")
    assert Lease(records.database, "a task", SHORT).is_held_by("wrk_2")


def test_workers_do_not_all_ask_for_it_at_once(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.maintenance.lease.lease_left", lambda *_: SHORT)
    monkeypatch.setattr("worker.maintenance.lease.monotonic", lambda: 0.0)
    others = [Lease(records.database, "a task", SHORT) for _ in range(9)]
    assert not any(each.is_held_by("wrk_2") for each in others)
    waits = [each.seconds_of_others - SHORT.total_seconds() for each in others]
    assert 0 <= min(waits) < max(waits) <= APART_SECONDS


def test_its_holder_renews_it_without_reading_it_first(records: Records) -> None:
    lease = Lease(records.database, "a task", LONG)
    assert lease.is_held_by("wrk_1")
    with records.database.read() as tx:
        before = tx.execute(select(func.max(schema.leases.c.expires_at))).scalar_one()
    with captured(records.database) as statements:
        assert lease.is_held_by("wrk_1")
    assert not any("FROM leases" in each.sql for each in statements)
    assert records.database.is_sqlite or any("synchronous_commit" in str(each) for each in statements)
    with records.database.read() as tx:
        assert tx.execute(select(func.max(schema.leases.c.expires_at))).scalar_one() > before


def test_a_lease_lost_to_another_is_asked_for_like_any(records: Records) -> None:
    """Its holder was delayed for longer than the lease lasts."""
    first, second = (Lease(records.database, "a task", SHORT) for _ in range(2))
    assert first.is_held_by("wrk_1")
    await_until(lambda: second.is_held_by("wrk_2"), 5, "nobody took it")
    assert not first.is_held_by("wrk_1")
    with captured(records.database) as statements:
        assert not first.is_held_by("wrk_1")
    assert [each.sql.split()[0] for each in statements] == ["SELECT"]
    await_until(lambda: first.is_held_by("wrk_1"), 5, "it was never taken back")
