"""Old attempts are summed up without changing the usage."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select, update

from jobs.errors import ErrorKind, Failure
from jobs.job import CallReport, Cost, Usage
from jobs.lifecycle import Verb
from jobs.store import schema
from jobs.store.database import Database
from jobs.store.jobs import erase
from jobs.store.usage import UsageRow, usage_by_day
from jobs.store.usage_rollup import add_up
from tests.support.clock import Clock
from tests.support.racing import race
from tests.support.records import ANSWER, COST, Records, make_key
from worker.maintenance.pruner import BATCH, add_up_attempts

DAY = timedelta(days=1)
KEPT = timedelta(days=400)
FREE = CallReport(Failure(ErrorKind.RATE_LIMITED, "Slow down.", 429), 429)
UNPRICED = replace(ANSWER, usage=None, cost=None)
HUGE = replace(ANSWER, usage=Usage(3_000_000_000, 0, 3_000_000_000), cost=Cost(5_000_000_000, COST.source))


def end(records: Records, report: CallReport, model: str = "a", *, is_kept: bool = False) -> None:
    verb = Verb.FAIL if isinstance(report.result, Failure) else Verb.COMPLETE
    job = records.end(*records.claim(records.submit_job(model=model, deadline_at=records.clock() + DAY)), verb, report)
    if not is_kept:
        with records.database.begin() as tx:
            erase(tx, job)


def usage(records: Records, start: datetime, end: datetime) -> list[UsageRow]:
    with records.database.read() as tx:
        return usage_by_day(tx, records.key.id, start, end)


def count(records: Records) -> int:
    with records.database.read() as tx:
        return tx.execute(select(func.count()).select_from(schema.attempts)).scalar_one()


def test_the_usage_stays_the_same(records: Records, clock: Clock) -> None:
    start = datetime.combine(clock().date(), datetime.min.time(), UTC)
    for _ in range(3):
        for report in (ANSWER, ANSWER, FREE, UNPRICED, HUGE):
            end(records, report)
        end(records, ANSWER, "b")
        clock.advance(DAY)
    theirs = make_key(records.database, "theirs")
    records.end(*records.claim(records.submit_job(theirs, deadline_at=clock() + DAY)), Verb.COMPLETE, ANSWER)
    before = usage(records, start, clock() + DAY)
    assert len(before) == 6
    clock.advance(KEPT - DAY)  # the last of the days stays unsummed
    rounds = [add_up_attempts(records.database, clock(), KEPT) for _ in range(2)]
    assert rounds == [12, 0]
    assert usage(records, start, clock()) == before
    assert usage(records, start + DAY, clock()) == [each for each in before if each.day != start.date()]
    assert usage(records, start, start + DAY) == [each for each in before if each.day == start.date()]
    clock.advance(DAY)
    assert add_up_attempts(records.database, clock(), KEPT) == 6
    assert usage(records, start, clock()) == before
    assert count(records) == 1  # the other key's, whose response still exists


def test_open_attempts_and_those_of_existing_responses_stay(records: Records, clock: Clock) -> None:
    end(records, ANSWER, is_kept=True)
    records.claim(records.submit_job())
    clock.advance(2 * KEPT)
    assert add_up_attempts(records.database, clock(), KEPT) == 0
    assert count(records) == 2


def test_attempts_are_summed_up_in_batches_of_one_key(records: Records, clock: Clock) -> None:
    other = make_key(records.database, "another", clock())
    for key in (records.key, records.key, records.key, other):
        job = records.end(*records.claim(records.submit_job(key)), Verb.COMPLETE, ANSWER)
        with records.database.begin() as tx:
            erase(tx, job)
    clock.advance(2 * KEPT)
    added = []
    for _ in range(4):
        with records.database.begin() as tx:
            added.append(add_up(tx, clock() - KEPT, 2))
    assert sorted(added, reverse=True) == [2, 1, 1, 0]


def test_a_locked_attempt_is_skipped(postgres_database: Database) -> None:
    records = Records(postgres_database, clock := Clock())
    for _ in range(3):
        end(records, UNPRICED)
    clock.advance(2 * KEPT)
    with postgres_database.begin() as tx:
        row = schema.attempts.c
        one = select(row.job_id).order_by(row.job_id).limit(1).scalar_subquery()
        tx.execute(update(schema.attempts).where(row.job_id == one).values(cost_microusd=7))
        assert add_up_attempts(postgres_database, clock(), KEPT) == 2
    assert add_up_attempts(postgres_database, clock(), KEPT) == 1
    [row_of_day] = usage(records, clock() - 3 * KEPT, clock())
    assert (row_of_day.calls, row_of_day.calls_of_unknown_cost, row_of_day.cost_microusd) == (3, 2, 7)


def test_two_sessions_at_once_count_each_attempt_once(records: Records, clock: Clock) -> None:
    for _ in range(10):
        end(records, ANSWER)
    start = clock() - DAY
    before = usage(records, start, clock() + DAY)
    clock.advance(2 * KEPT)
    added = race(*(lambda: add_up_attempts(records.database, clock(), KEPT) for _ in range(2)))
    assert sum(added) <= 10 < BATCH
    while add_up_attempts(records.database, clock(), KEPT):
        pass
    assert usage(records, start, clock()) == before
    assert count(records) == 0
