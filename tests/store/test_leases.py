"""Leases as a fleet asks for them: the holder writes, everybody else reads, and only when there may be news."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from jobs.store import schema
from tests.support.plans import captured
from tests.support.records import Records
from tests.support.waiting import await_until
from worker.maintenance.lease import APART_SECONDS, Lease

LONG = timedelta(hours=1)
SHORT = timedelta(seconds=0.5)


def test_who_finds_it_anothers_writes_nothing_and_asks_once(records: Records) -> None:
    assert Lease(records.database, "a duty", LONG).is_held_by("wrk_1")
    other = Lease(records.database, "a duty", LONG)
    with captured(records.database) as statements:
        assert not any(other.is_held_by("wrk_2") for _ in range(10))
    assert [each.sql.split()[0] for each in statements] == ["SELECT"]
    assert 0 < other.seconds_of_others <= LONG.total_seconds() + APART_SECONDS


def test_run_out_it_is_the_next_ones_within_moments(records: Records) -> None:
    assert Lease(records.database, "a duty", SHORT).is_held_by("wrk_1")
    other = Lease(records.database, "a duty", SHORT)
    assert not other.is_held_by("wrk_2")
    assert other.seconds_of_others <= SHORT.total_seconds() + APART_SECONDS
    await_until(lambda: other.is_held_by("wrk_2"), 5, "nobody took it")


def test_a_step_of_the_clock_makes_nobody_wait_longer_than_a_lease_lasts(records: Records) -> None:
    """As one that was set back by hours since the lease was taken."""
    assert Lease(records.database, "a duty", LONG).is_held_by("wrk_1")
    assert Lease(records.database, "a duty", SHORT).is_held_by("wrk_2")


def test_all_do_not_ask_for_it_at_once(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.maintenance.lease.lease_left", lambda *_: SHORT)
    monkeypatch.setattr("worker.maintenance.lease.monotonic", lambda: 0.0)
    others = [Lease(records.database, "a duty", SHORT) for _ in range(9)]
    assert not any(each.is_held_by("wrk_2") for each in others)
    waits = [each.seconds_of_others - SHORT.total_seconds() for each in others]
    assert 0 <= min(waits) < max(waits) <= APART_SECONDS


def test_its_holder_renews_it_without_a_look_before(records: Records) -> None:
    lease = Lease(records.database, "a duty", LONG)
    assert lease.is_held_by("wrk_1")
    with records.database.read() as tx:
        before = tx.execute(select(func.max(schema.leases.c.expires_at))).scalar_one()
    with captured(records.database) as statements:
        assert lease.is_held_by("wrk_1")
    assert not any("FROM leases" in each.sql for each in statements)
    assert records.database.is_sqlite or any("synchronous_commit" in str(each) for each in statements)
    with records.database.read() as tx:
        assert tx.execute(select(func.max(schema.leases.c.expires_at))).scalar_one() > before


def test_one_that_was_lost_to_another_is_asked_for_like_any(records: Records) -> None:
    """Its holder was held up for longer than it lasts."""
    first, second = (Lease(records.database, "a duty", SHORT) for _ in range(2))
    assert first.is_held_by("wrk_1")
    await_until(lambda: second.is_held_by("wrk_2"), 5, "nobody took it")
    assert not first.is_held_by("wrk_1")
    with captured(records.database) as statements:
        assert not first.is_held_by("wrk_1")
    assert [each.sql.split()[0] for each in statements] == ["SELECT"]
    await_until(lambda: first.is_held_by("wrk_1"), 5, "it was never taken back")
