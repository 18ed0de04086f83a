"""A process's clock follows the database's, however late its answers come, and knows when that was set."""

from datetime import UTC, datetime, timedelta

import pytest

from jobs.clock import Clock, elapsed

SECOND = timedelta(seconds=1)
THEIRS = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)


class HostClock:
    """One that can be set."""

    ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def is_near(moment: datetime, wanted: datetime, within: timedelta = SECOND / 4) -> bool:
    return abs(moment - wanted) <= within


def test_it_is_the_hosts_until_the_database_was_asked() -> None:
    clock = Clock()
    assert not clock.is_set
    assert is_near(clock(), datetime.now(UTC))


def test_then_it_is_the_databases() -> None:
    clock = Clock()
    clock.learn(THEIRS, elapsed())
    assert clock.is_set
    assert is_near(clock(), THEIRS)
    assert is_near(THEIRS - clock.host_ahead, THEIRS + (THEIRS - datetime.now(UTC)))


def test_a_slow_answer_that_agrees_changes_nothing() -> None:
    clock = Clock()
    clock.learn(THEIRS, elapsed())
    clock.learn(THEIRS - 5 * SECOND, elapsed() - 20)
    assert is_near(clock(), THEIRS)
    assert clock.stepped_at < elapsed() - 1000


@pytest.mark.parametrize("hours", [1, -1])
def test_it_follows_when_the_databases_clock_is_set_and_tells_when(hours: int) -> None:
    clock = Clock()
    clock.learn(THEIRS, elapsed())
    before = elapsed()
    clock.learn(THEIRS + timedelta(hours=hours), elapsed())
    assert is_near(clock(), THEIRS + timedelta(hours=hours))
    assert before <= clock.stepped_at <= elapsed()


@pytest.mark.parametrize("hours", [1, -1])
def test_setting_the_host_moves_nothing(hours: int) -> None:
    host = HostClock()
    clock = Clock(host)
    clock.learn(THEIRS, elapsed())
    host.ahead = timedelta(hours=hours)
    assert is_near(clock(), THEIRS)
    assert is_near(THEIRS + clock.host_ahead, host())
