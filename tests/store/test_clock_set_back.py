"""After the database's clock was set back by an hour, nothing that is due, or soon will be, waits for that hour."""

from datetime import timedelta

from sqlalchemy import select, update

from jobs.errors import ErrorKind
from jobs.job import Job
from jobs.lifecycle import Status, Verb
from jobs.store import provider_limits, schema
from jobs.store.clock_set_back import correct_provider_limits, correct_rows
from jobs.store.row_mapping import job_from
from tests.support.records import FAILURE, Records
from worker.maintenance.clock_set_back import AT_ONCE, ClockSetBack

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
PROVIDER = "https://provider.example"


def set_back(records: Records) -> int:
    """Set the clock back and correct the rows."""
    now = records.clock.advance(-HOUR)
    return ClockSetBack(records.database).run_once(now)


def rescheduled(records: Records) -> Job:
    job, attempt = records.claim(records.submit_job())
    again = {"available_at": records.clock() + timedelta(minutes=5), "failures": 1}
    return records.end(job, attempt, Verb.RESCHEDULE, FAILURE, **again)


def test_queued_and_rescheduled_jobs_are_due_now(records: Records) -> None:
    jobs = [records.submit_job(), rescheduled(records)]
    with records.database.begin() as tx:
        tx.execute(update(schema.jobs).values(enqueued_at=records.clock()))
    assert set_back(records) == len(jobs)
    with records.database.read() as tx:
        rows = [job_from(each) for each in tx.execute(select(schema.jobs)).mappings()]
    assert [(each.available_at, each.enqueued_at, each.updated_at) for each in rows] == [
        (records.clock(), None, records.clock())
    ] * 2


def test_a_job_keeps_its_run_at(records: Records) -> None:
    run_at = records.clock() + 2 * HOUR
    job = records.submit_job(run_at=run_at)
    assert set_back(records) == 0
    assert records.reload(job).available_at == run_at


def test_a_claim_that_its_worker_does_not_hold_is_found_as_soon_as_ever(records: Records) -> None:
    job = records.job_in(Status.IN_PROGRESS)
    assert set_back(records) == 1
    assert records.reload(job).updated_at == records.clock()


def test_a_provider_that_accepts_calls_again_is_active_with_the_next_call(records: Records) -> None:
    with records.database.begin() as tx:
        provider_limits.pause(
            tx, PROVIDER, ErrorKind.BAD_CREDENTIALS, records.clock(), records.clock(), pause=timedelta(minutes=5)
        )
    set_back(records)
    with records.database.begin() as tx:
        provider_limit = provider_limits.read_provider_limit(tx, PROVIDER)
        assert not provider_limit.refuses_all(records.clock())
        assert provider_limits.take_probe(tx, provider_limit, records.clock())
        assert provider_limits.resume(tx, PROVIDER, records.clock() + SECOND)


def test_nothing_is_changed_if_the_clock_was_not_set(records: Records) -> None:
    jobs = [records.submit_job(), rescheduled(records), records.job_in(Status.IN_PROGRESS)]
    with records.database.begin() as tx:
        provider_limits.pause(
            tx, PROVIDER, ErrorKind.BAD_CREDENTIALS, records.clock(), records.clock(), pause=timedelta(minutes=5)
        )
        before = provider_limits.read_provider_limit(tx, PROVIDER)
        correct_provider_limits(tx, records.clock())
        assert correct_rows(tx, records.clock(), AT_ONCE) == 0
        assert provider_limits.read_provider_limit(tx, PROVIDER) == before
    assert [records.reload(job) for job in jobs] == jobs


def test_rows_are_checked_again_only_after_another_step(records: Records) -> None:
    task = ClockSetBack(records.database)
    assert task.run_once(records.clock()) == 0
    records.submit_job()
    assert task.run_once(records.clock.advance(-HOUR)) == 0
    began_at = records.database.clock.began_at
    assert began_at is not None
    records.database.clock.follow(began_at - HOUR)
    assert task.run_once(records.clock()) == 1
