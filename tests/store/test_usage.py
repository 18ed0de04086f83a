"""Usage by day, model and key."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from jobs.errors import ErrorKind, Failure
from jobs.job import CallReport, Cost, Outcome, Usage
from jobs.lifecycle import Status, Verb
from jobs.store.attempts import close_lost
from jobs.store.database import Database
from jobs.store.jobs import erase
from jobs.store.usage import UsageRow, usage_by_day
from tests.support.clock import Clock
from tests.support.records import ANSWER, COST, MODEL, USAGE, Records, end_one, make_key

DAY = timedelta(days=1)
MIDNIGHT = datetime(2026, 3, 15, tzinfo=UTC)
TWICE = Usage(input_tokens=22, output_tokens=44, total_tokens=66, cached_tokens=8, reasoning_tokens=10)


def usage(records: Records, start: datetime = MIDNIGHT - DAY, end: datetime = MIDNIGHT + DAY) -> list[UsageRow]:
    with records.database.read() as tx:
        return usage_by_day(tx, records.key.id, start, end)


def test_without_calls_there_are_no_rows(records: Records) -> None:
    records.submit_job()
    assert usage(records) == []


def test_calls_tokens_and_cost_of_a_day_are_summed(records: Records) -> None:
    records.job_in(Status.COMPLETED)
    records.job_in(Status.INCOMPLETE)
    records.job_in(Status.FAILED)
    [row] = usage(records)
    assert row == UsageRow(
        day=date(2026, 3, 14),
        model=MODEL,
        api_key_id=records.key.id,
        api_key_name="the key",
        calls=3,
        usage=TWICE,
        cost_microusd=2 * COST.microusd,
    )


def test_a_day_is_a_utc_day_in_every_time_zone_of_the_database(records: Records, clock: Clock) -> None:
    clock.advance(MIDNIGHT - clock() - timedelta(microseconds=1))
    records.job_in(Status.COMPLETED)
    clock.advance(timedelta(microseconds=1))
    records.job_in(Status.COMPLETED)
    clock.advance(DAY / 2)
    records.job_in(Status.COMPLETED)
    assert [(row.day, row.calls) for row in usage(records)] == [(date(2026, 3, 15), 2), (date(2026, 3, 14), 1)]


def test_a_span_includes_its_start_and_excludes_its_end(records: Records, clock: Clock) -> None:
    records.job_in(Status.COMPLETED)
    start = clock()
    assert len(usage(records, start, start + timedelta(microseconds=1))) == 1
    assert usage(records, start - DAY, start) == []
    assert usage(records, start + timedelta(microseconds=1), start + DAY) == []


def test_models_have_separate_rows_in_order(records: Records) -> None:
    for model in ("b", "a", "b"):
        records.job_in(Status.COMPLETED, model=model)
    assert [(row.model, row.calls) for row in usage(records)] == [("a", 1), ("b", 2)]


def test_calls_of_another_key_are_left_out(records: Records, database: Database) -> None:
    records.job_in(Status.COMPLETED)
    theirs = records.submit_job(make_key(database, "theirs"))
    records.end(*records.claim(theirs), Verb.COMPLETE, ANSWER)
    assert [row.calls for row in usage(records)] == [1]


def test_cancelled_failed_erased_and_late_calls_are_counted_once(records: Records, clock: Clock) -> None:
    job, attempt = records.claim(records.submit_job())
    cancelled = records.move(Verb.CANCEL, job)
    with records.database.begin() as tx:
        close_lost(tx, job.id, attempt.number, clock(), Failure(ErrorKind.LOST, "Silent."))
        end_one(tx, attempt, Outcome.COMPLETED, clock(), ANSWER)
        end_one(tx, attempt, Outcome.COMPLETED, clock(), ANSWER)
        erase(tx, cancelled)
    paid = CallReport(Failure(ErrorKind.EMPTY_OUTPUT, "Nothing."), usage=USAGE, cost=COST)
    records.end(*records.claim(records.submit_job()), Verb.FAIL, paid)
    [row] = usage(records)
    assert (row.calls, row.usage, row.cost_microusd) == (2, TWICE, 2 * COST.microusd)


def test_sums_beyond_32_bits(records: Records) -> None:
    huge = Usage(input_tokens=3_000_000_000, total_tokens=3_000_000_000)
    for _ in range(2):
        report = CallReport(ANSWER.result, usage=huge, cost=Cost(5_000_000_000, COST.source))
        records.end(*records.claim(records.submit_job()), Verb.COMPLETE, report)
    [row] = usage(records)
    assert (row.usage.input_tokens, row.cost_microusd) == (6_000_000_000, 10_000_000_000)


def test_calls_of_unknown_cost_are_counted_separately(records: Records) -> None:
    free = CallReport(Failure(ErrorKind.RATE_LIMITED, "Slow down.", 429), 429)
    unreadable = CallReport(Failure(ErrorKind.MALFORMED_ANSWER, "No JSON.", 200), 200)
    for report in (ANSWER, replace(ANSWER, usage=None, cost=None), unreadable, free):
        verb = Verb.FAIL if isinstance(report.result, Failure) else Verb.COMPLETE
        records.end(*records.claim(records.submit_job()), verb, report)
    records.claim(records.submit_job())  # still runs, so its cost is not unknown yet
    [row] = usage(records)
    assert (row.calls, row.calls_of_unknown_cost, row.cost_microusd) == (5, 2, COST.microusd)
