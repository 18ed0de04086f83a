"""The time on SQLite: all processes of a boot count it on alike, however the host's clock is set."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select

import jobs.store.sqlite_clock
import worker.maintenance.sqlite_clock
from jobs.clock import Clock, elapsed
from jobs.store import schema
from jobs.store.database import Database, database_clock, database_now
from tests.support.records import make_key, make_spec, submit_one
from worker.maintenance.sqlite_clock import EVERY, RATE, SETTLED_SECONDS, TOLERANCE, Timekeeper

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
NEAR = timedelta(seconds=0.5)


class Host:
    """A host whose clock can be set, and whose processes open the database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ahead = timedelta(0)
        self.opened: list[Database] = []

    def clock(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def process(self) -> Database:
        self.opened.append(Database(self.url, clock=Clock(self.clock)))
        return self.opened[-1]


@pytest.fixture
def host(sqlite_url: str) -> Iterator[Host]:
    made = Host(sqlite_url)
    yield made
    for each in made.opened:
        each.close()


def written(database: Database) -> datetime:
    with database.begin() as tx:
        moment = database_now(tx)
        assert abs(database_clock(tx) - moment) < NEAR
        assert abs(database.ask_time(tx) - moment) < NEAR
    return moment


def read(database: Database) -> datetime:
    with database.read() as tx:
        return database_now(tx)


def is_now(moment: datetime, ahead: timedelta = timedelta(0)) -> bool:
    return abs(moment - ahead - datetime.now(UTC)) < NEAR


@pytest.mark.parametrize("hours", [1, -1, 48])
def test_a_step_of_the_hosts_clock_changes_the_time_of_no_process_old_or_new(hours: int, host: Host) -> None:
    first = host.process()
    assert is_now(written(first))
    host.ahead = timedelta(hours=hours)
    assert is_now(written(first))
    assert is_now(first.clock())
    assert abs(first.clock.host_ahead - host.ahead) < NEAR
    assert is_now(read(host.process()))
    assert is_now(written(host.process()))


def test_times_sent_outside_are_the_hosts(host: Host) -> None:
    database = host.process()
    written(database)
    host.ahead = HOUR
    assert is_now(database.wall_clock(), HOUR)


def reboot(monkeypatch: pytest.MonkeyPatch, boot: str | None = "the next") -> None:
    monkeypatch.setattr(jobs.store.sqlite_clock, "boot_id", lambda: boot)


def test_after_a_reboot_the_hosts_time_is_taken_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    written(host.process())
    reboot(monkeypatch)
    host.ahead = 3 * HOUR
    after = host.process()
    assert is_now(read(after), 3 * HOUR)
    assert is_now(written(after), 3 * HOUR)
    host.ahead = timedelta(0)
    assert is_now(written(host.process()), 3 * HOUR)


def test_after_a_reboot_the_time_is_never_before_the_last_heartbeat(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine without a clock battery: else dead workers would count as live, and nothing would be due."""
    last = datetime.now(UTC) + HOUR
    with host.process().begin() as tx:
        row = {"id": "api_1", "heartbeat_at": last}
        tx.execute(insert(schema.api_processes).values(row))
    reboot(monkeypatch)
    host.ahead = timedelta(days=-10_000)
    assert is_now(written(host.process()), HOUR)


def test_a_rolled_back_write_stores_no_time_and_leaves_the_process_its_own(host: Host) -> None:
    first = host.process()
    with pytest.raises(ZeroDivisionError), first.begin():
        raise ZeroDivisionError
    host.ahead = HOUR
    assert is_now(written(first))
    assert is_now(written(host.process()))


def test_without_a_boot_id_the_time_is_the_hosts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    reboot(monkeypatch, None)
    database = host.process()
    written(database)
    host.ahead = HOUR
    assert is_now(written(database), HOUR)


def test_before_the_migration_the_time_is_the_hosts(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    assert is_now(written(database))
    database.close()


class Passing:
    """A monotonic clock that the test advances."""

    def __init__(self) -> None:
        self.passed = 0.0

    def __call__(self) -> float:
        return elapsed() + self.passed


@pytest.fixture
def keep_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], timedelta]:
    """Return a function that runs the timekeeper for some seconds and returns the span by which it moved the time."""
    passing = Passing()
    monkeypatch.setattr(worker.maintenance.sqlite_clock, "elapsed", passing)
    database = host.process()
    written(database)
    keeper = Timekeeper(database)

    def run_for(seconds: float) -> timedelta:
        moved = keeper.run_once()
        for _ in range(round(seconds / EVERY)):
            passing.passed += EVERY
            moved += keeper.run_once()
        return moved

    return run_for


def open_job(host: Host, run_in: timedelta | None = None) -> str:
    database = host.process()
    key = make_key(database)
    now = written(database)
    spec = make_spec(key.id, deadline_at=now + 24 * HOUR, run_at=None if run_in is None else now + run_in)
    with database.begin() as tx:
        return submit_one(tx, spec, now).id


@pytest.mark.parametrize("hours", [1, -1])
def test_with_an_open_job_the_time_follows_by_a_hundredth_at_most(
    hours: int, host: Host, keep_time: Callable[[float], timedelta]
) -> None:
    other = host.process()
    written(other)
    open_job(host)
    host.ahead = timedelta(hours=hours)
    moved = timedelta(0)
    for _ in range(10):
        moved += keep_time(60)
        assert is_now(written(other), moved)
    assert abs(moved - hours * RATE * timedelta(seconds=600)) < SECOND / 2
    assert other.clock.stepped_at == float("-inf")  # that is no step
    assert abs(other.clock() - host.clock()) > HOUR - 10 * SECOND


def test_it_stops_when_both_clocks_agree(host: Host, keep_time: Callable[[float], timedelta]) -> None:
    open_job(host)
    host.ahead = SECOND / 2
    keep_time(120)
    assert keep_time(60) == timedelta(0)
    assert abs(host.opened[0].clock.host_ahead) <= TOLERANCE


@pytest.mark.parametrize("hours", [8, -1])
def test_without_an_open_job_the_time_is_set_at_once_for_all_next_transactions(
    hours: int, host: Host, keep_time: Callable[[float], timedelta]
) -> None:
    other = host.process()
    written(other)
    host.ahead = timedelta(hours=hours)
    assert abs(keep_time(SETTLED_SECONDS / 2)) < SECOND  # the clock may be set back in a moment
    keep_time(SETTLED_SECONDS)
    assert is_now(written(other), host.ahead)
    assert other.clock.stepped_at > elapsed() - 60  # so no worker is marked dead for a while


def test_a_job_that_waits_for_its_run_at_does_not_count_as_open(
    host: Host, keep_time: Callable[[float], timedelta]
) -> None:
    open_job(host, run_in=10 * HOUR)
    host.ahead = HOUR
    assert abs(keep_time(2 * SETTLED_SECONDS) - HOUR) < SECOND


def test_a_job_that_a_step_would_make_due_counts_as_open(host: Host, keep_time: Callable[[float], timedelta]) -> None:
    job_id = open_job(host, run_in=HOUR / 2)
    host.ahead = HOUR
    assert keep_time(2 * SETTLED_SECONDS) < SECOND
    with host.process().begin() as tx:
        assert tx.execute(select(schema.jobs.c.id)).scalar_one() == job_id


def test_a_clock_that_is_set_repeatedly_is_followed_slowly(host: Host, keep_time: Callable[[float], timedelta]) -> None:
    for number in range(8):
        host.ahead = (number % 2) * HOUR
        assert abs(keep_time(10)) < SECOND
