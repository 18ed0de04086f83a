"""No job throttles a provider twice in a row, and a paused provider is probed after growing pauses."""

from datetime import timedelta

from jobs.errors import ErrorKind
from jobs.store import provider_limits
from jobs.store.database import Database
from tests.support.clock import Clock
from tests.support.records import Records

NAME = "provider"


def refused_probe(database: Database, clock: Clock) -> timedelta:
    """Take the next probe, let it be refused, and return the pause before the next one."""
    with database.begin() as tx:
        provider_limit = provider_limits.read_provider_limit(tx, NAME)
        assert provider_limit.probe_at is not None
        clock.advance(max(timedelta(), provider_limit.probe_at - clock()))
        assert provider_limits.take_probe(tx, provider_limit, clock())
        assert provider_limits.read_provider_limit(tx, NAME).refuses_all(clock())  # one probe at a time
        clock.advance(timedelta(milliseconds=1))
        assert not provider_limits.pause(tx, NAME, ErrorKind.BAD_CREDENTIALS, clock(), clock())
        probe_at = provider_limits.read_provider_limit(tx, NAME).probe_at
        assert probe_at is not None
    return probe_at - clock()


def test_the_first_probe_is_due_at_once_and_each_refused_one_doubles_the_pause(
    database: Database, clock: Clock
) -> None:
    with database.begin() as tx:
        assert provider_limits.pause(tx, NAME, ErrorKind.BAD_CREDENTIALS, clock(), clock())
        assert not provider_limits.read_provider_limit(tx, NAME).refuses_all(clock())
    pauses = [refused_probe(database, clock).total_seconds() for _ in range(8)]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_provider_that_was_active_in_between_is_probed_at_once_again(database: Database, clock: Clock) -> None:
    with database.begin() as tx:
        provider_limits.pause(tx, NAME, ErrorKind.BAD_CREDENTIALS, clock(), clock())
    for _ in range(5):
        refused_probe(database, clock)
    with database.begin() as tx:
        clock.advance(timedelta(seconds=30))
        assert provider_limits.resume(tx, NAME, clock())
        provider_limits.pause(tx, NAME, ErrorKind.BAD_CREDENTIALS, clock(), clock())
        assert not provider_limits.read_provider_limit(tx, NAME).refuses_all(clock())


def test_no_job_throttles_the_provider_twice_in_a_row(records: Records, clock: Clock) -> None:
    for _ in range(16):
        records.claim(records.submit_job())
    limits = []
    for job_id in ("resp_a", "resp_a", "resp_b", "resp_b", "resp_a"):
        clock.advance(2 * provider_limits.THROTTLE_EVERY)
        with records.database.begin() as tx:
            limits.append(provider_limits.throttle(tx, NAME, job_id, clock()))
    assert limits == [8, None, 8, None, 8]  # half of the running calls, none of which has ended
