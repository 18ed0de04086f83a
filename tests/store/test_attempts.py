"""The ledger of calls: a row is opened before the call and closed once, even by a late report."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from jobs.errors import Billed, ErrorKind, Failure
from jobs.job import Answer, CallReport, Cost, CostSource, Outcome, Truncation
from jobs.lifecycle import Status, Verb
from jobs.retry import RULES
from jobs.store import schema
from jobs.store.attempts import attempts_of, close_lost, count_failures, save_answers
from jobs.store.database import Database
from jobs.store.jobs import erase, retry_job
from jobs.store.responses import get_response_document
from jobs.store.workers import mark_silent_dead
from jobs.text_limits import ERROR_MESSAGE
from tests.support.clock import Clock
from tests.support.records import ANSWER, COST, FAILURE, USAGE, Records, claim_one, end_one, rows_of, snapshot

SECOND = timedelta(seconds=1)
LOST = Failure(ErrorKind.LOST, "The worker stopped sending heartbeats.")


class TestBegin:
    def test_the_job_is_held_and_its_call_is_open(self, records: Records, clock: Clock) -> None:
        waiting = records.submit_job()
        now = clock.advance(SECOND)
        job, attempt = records.claim(waiting)
        assert records.reload(job) == job
        assert (job.status, job.attempt, job.worker_id, job.started_at) == (
            Status.IN_PROGRESS,
            1,
            records.worker_id,
            now,
        )
        with records.database.read() as tx:
            assert attempts_of(tx, job.id) == [attempt]
        assert (attempt.number, attempt.worker_id, attempt.started_at) == (1, records.worker_id, now)
        assert (attempt.ended_at, attempt.outcome, attempt.billed) == (None, None, Billed.UNKNOWN)
        assert (attempt.api_key_id, attempt.model) == (job.api_key_id, job.model)

    def test_the_second_call_has_the_next_number_and_keeps_the_jobs_start(self, records: Records, clock: Clock) -> None:
        first, _ = records.claim(records.submit_job())
        again = records.move(
            Verb.RESCHEDULE, first, available_at=clock.advance(SECOND), truncation_applied=Truncation.AUTO
        )
        job, attempt = records.claim(again)
        assert (job.attempt, attempt.number, job.started_at) == (2, 2, first.started_at)
        assert attempt.truncation is Truncation.AUTO

    @pytest.mark.parametrize("status", sorted(set(Status) - {Status.QUEUED}))
    def test_a_job_that_is_claimed_or_ended_is_not_claimed(self, status: Status, records: Records) -> None:
        job = records.job_in(status)
        before = snapshot(records.database)
        with records.database.begin() as tx:
            assert claim_one(tx, job.id, records.worker_id, records.clock()) is None
        assert snapshot(records.database) == before

    @pytest.mark.parametrize(("wait", "stale"), [(59, True), (60, False)])
    def test_a_job_is_not_claimed_before_it_is_due(
        self, wait: int, stale: bool, records: Records, clock: Clock
    ) -> None:
        job = records.submit_job(run_at=clock() + 60 * SECOND)
        now = clock.advance(wait * SECOND)
        with records.database.begin() as tx:
            assert (claim_one(tx, job.id, records.worker_id, now) is None) == stale

    @pytest.mark.parametrize(("wait", "stale"), [(59, False), (60, True)])
    def test_a_job_is_not_claimed_at_its_deadline(self, wait: int, stale: bool, records: Records, clock: Clock) -> None:
        job = records.submit_job(deadline_at=clock() + 60 * SECOND)
        now = clock.advance(wait * SECOND)
        with records.database.begin() as tx:
            assert (claim_one(tx, job.id, records.worker_id, now) is None) == stale

    def test_a_worker_that_was_marked_dead_claims_nothing(self, records: Records, clock: Clock) -> None:
        job = records.submit_job()
        now = clock.advance(60 * SECOND)
        with records.database.begin() as tx:
            assert mark_silent_dead(tx, now, 10 * SECOND) == [records.worker_id]
            assert claim_one(tx, job.id, records.worker_id, now) is None
        fresh = records.worker()
        _job, attempt = records.claim(job, fresh)
        assert (attempt.number, attempt.worker_id) == (1, fresh)

    def test_an_erased_job_is_not_claimed(self, records: Records) -> None:
        job = records.job_in(Status.COMPLETED)
        with records.database.begin() as tx:
            erase(tx, job)
            assert claim_one(tx, job.id, records.worker_id, records.clock()) is None


class TestEnd:
    def test_the_outcome_of_a_call_is_written(self, records: Records, clock: Clock) -> None:
        _job, attempt = records.claim(records.submit_job())
        now = clock.advance(SECOND)
        with records.database.begin() as tx:
            assert end_one(tx, attempt, Outcome.COMPLETED, now, ANSWER)
            [ended] = attempts_of(tx, attempt.job_id)
        assert (ended.outcome, ended.ended_at, ended.http_status) == (Outcome.COMPLETED, now, 200)
        assert (ended.provider_request_id, ended.provider_response_id) == ("inf_1", "resp_theirs")
        assert (ended.usage, ended.cost, ended.billed) == (USAGE, COST, Billed.YES)
        assert (ended.error_kind, ended.error_message) == (None, None)

    def test_a_call_is_ended_once(self, records: Records, clock: Clock) -> None:
        job, attempt = records.claim(records.submit_job())
        with records.database.begin() as tx:
            assert end_one(tx, attempt, Outcome.COMPLETED, clock(), ANSWER)
        before = snapshot(records.database)
        clock.advance(SECOND)
        with records.database.begin() as tx:
            assert not end_one(tx, attempt, Outcome.FAILED, clock(), FAILURE)
            assert not end_one(tx, attempt, Outcome.COMPLETED, clock(), ANSWER)
            close_lost(tx, attempt.job_id, attempt.number, clock(), LOST)
        assert snapshot(records.database) == before
        assert records.reload(job).cost == COST

    def test_a_lost_call_may_still_report_once(self, records: Records, clock: Clock) -> None:
        job, attempt = records.claim(records.submit_job())
        with records.database.begin() as tx:
            close_lost(tx, attempt.job_id, attempt.number, clock(), LOST)
            [lost] = attempts_of(tx, job.id)
        assert (lost.outcome, lost.billed, lost.error_kind) == (Outcome.LOST, Billed.UNKNOWN, ErrorKind.LOST)
        now = clock.advance(SECOND)
        for first in (True, False):
            with records.database.begin() as tx:
                assert end_one(tx, attempt, Outcome.COMPLETED, now, ANSWER) is first
                [late] = attempts_of(tx, job.id)
            assert (late.outcome, late.billed, late.error_kind) == (Outcome.COMPLETED, Billed.YES, None)
            assert (late.error_message, late.usage, late.ended_at) == (None, USAGE, now)
            assert records.reload(job).cost == COST

    def test_the_costs_of_all_calls_add_up(self, records: Records, clock: Clock) -> None:
        first, attempt = records.claim(records.submit_job())
        paid_failure = CallReport(Failure(ErrorKind.EMPTY_OUTPUT, "Nothing."), usage=USAGE, cost=Cost(40, COST.source))
        waiting = records.end(first, attempt, Verb.RESCHEDULE, paid_failure, available_at=clock())
        assert records.reload(waiting).cost == Cost(40, CostSource.PROVIDER)
        by_table = CallReport(ANSWER.result, usage=USAGE, cost=Cost(2, CostSource.PRICE_TABLE))
        done = records.end(*records.claim(waiting), Verb.COMPLETE, by_table)
        assert records.reload(done).cost == Cost(42, CostSource.PRICE_TABLE)

    def test_a_call_that_reports_after_the_jobs_end_is_booked(self, records: Records) -> None:
        running, attempt = records.claim(records.submit_job())
        cancelled = records.move(Verb.CANCEL, running)
        with records.database.begin() as tx:
            assert end_one(tx, attempt, Outcome.CANCELLED, records.clock(), ANSWER)
        booked = records.reload(cancelled)
        assert (booked.status, booked.cost) == (Status.CANCELLED, COST)

    @pytest.mark.parametrize(
        ("changes", "billed"),
        [
            ({"result": Answer({}), "cost": None}, Billed.YES),
            ({"result": Answer({}), "cost": Cost(0, CostSource.PROVIDER)}, Billed.NO),
            ({"result": Failure(ErrorKind.REJECTED, "No."), "cost": Cost(1, CostSource.PROVIDER)}, Billed.YES),
            *(({"result": Failure(kind, "No."), "cost": None}, RULES[kind].billed) for kind in ErrorKind),
        ],
    )
    def test_billed_follows_from_the_report(self, changes: dict[str, Any], billed: Billed, records: Records) -> None:
        _job, attempt = records.claim(records.submit_job())
        with records.database.begin() as tx:
            end_one(tx, attempt, Outcome.FAILED, records.clock(), CallReport(**changes))
            [ended] = attempts_of(tx, attempt.job_id)
        assert ended.billed is billed

    def test_a_long_message_is_truncated(self, records: Records) -> None:
        _job, attempt = records.claim(records.submit_job())
        report = CallReport(Failure(ErrorKind.REJECTED, "ü" * (ERROR_MESSAGE + 1)))
        with records.database.begin() as tx:
            end_one(tx, attempt, Outcome.FAILED, records.clock(), report)
            [ended] = attempts_of(tx, attempt.job_id)
        assert ended.error_message == "ü" * ERROR_MESSAGE

    def test_calls_are_listed_in_order(self, records: Records, clock: Clock) -> None:
        job = records.submit_job()
        for _ in range(12):
            job = records.move(Verb.RESCHEDULE, records.claim(job)[0], available_at=clock())
        with records.database.read() as tx:
            assert [attempt.number for attempt in attempts_of(tx, job.id)] == list(range(1, 13))


class TestAnswer:
    def test_the_normalised_and_the_raw_answer_are_stored(self, records: Records) -> None:
        job = records.job_in(Status.COMPLETED)
        [row] = rows_of(records.database, schema.answers, job)
        assert isinstance(ANSWER.result, Answer)
        assert (row["response"], row["raw"]) == (ANSWER.result.response, ANSWER.raw)
        with records.database.read() as tx:
            assert get_response_document(tx, job.id, records.key.id).answer == ANSWER.result.response

    def test_an_unreadable_answer_is_stored_raw(self, records: Records) -> None:
        raw = bytes(range(256))
        job, attempt = records.claim(records.submit_job())
        report = CallReport(Failure(ErrorKind.MALFORMED_ANSWER, "No JSON."), http_status=200, raw=raw)
        failed = records.end(job, attempt, Verb.FAIL, report)
        [row] = rows_of(records.database, schema.answers, failed)
        assert (row["response"], row["raw"]) == (None, raw)
        [kept] = rows_of(records.database, schema.attempt_bodies, failed)
        assert (kept["number"], kept["body"]) == (1, raw)

    def test_bodies_of_failed_calls_are_erased_with_the_job_and_not_stored_after_it(self, records: Records) -> None:
        report = CallReport(Failure(ErrorKind.MALFORMED_ANSWER, "No JSON."), http_status=200, raw=b"<html>")
        early = records.end(*records.claim(records.submit_job()), Verb.FAIL, report)
        job, attempt = records.claim(records.submit_job())
        late = records.move(Verb.CANCEL, job)
        with records.database.begin() as tx:
            erase(tx, early)
            erase(tx, late)
            end_one(tx, attempt, Outcome.FAILED, records.clock(), report)
        for erased in (early, late):
            assert rows_of(records.database, schema.attempt_bodies, erased) == []

    def test_only_failures_of_the_present_run_and_kind_are_counted(self, records: Records, clock: Clock) -> None:
        unreadable = CallReport(Failure(ErrorKind.MALFORMED_ANSWER, "No JSON.", 200), 200)
        job = records.submit_job()
        for report in (unreadable, CallReport(Failure(ErrorKind.OVERLOADED, "Busy.", 503), 503), unreadable):
            job = records.end(*records.claim(job), Verb.RESCHEDULE, report, available_at=clock())
            clock.advance(timedelta(seconds=1))
        with records.database.begin() as tx:
            assert count_failures(tx, job, ErrorKind.MALFORMED_ANSWER) == 2
        job = records.end(*records.claim(job), Verb.FAIL, unreadable)
        with records.database.begin() as tx:
            job = retry_job(tx, job, clock(), clock() + timedelta(hours=1))
        clock.advance(timedelta(seconds=1))
        job = records.end(*records.claim(job), Verb.RESCHEDULE, unreadable, available_at=clock())
        with records.database.begin() as tx:
            assert count_failures(tx, job, ErrorKind.MALFORMED_ANSWER) == 1

    def test_a_failure_without_a_body_stores_no_answer(self, records: Records) -> None:
        failed = records.job_in(Status.FAILED)
        assert not rows_of(records.database, schema.answers, failed)

    def test_a_later_answer_replaces_an_earlier_one(self, records: Records, database: Database) -> None:
        job = records.job_in(Status.COMPLETED)
        with database.begin() as tx:
            save_answers(tx, [(job, CallReport(Answer({"output": []}), raw=b"{}"))])
        [row] = rows_of(database, schema.answers, job)
        assert (row["response"], row["raw"]) == ({"output": []}, b"{}")


def test_the_table_accepts_every_value_of_the_enums(records: Records, database: Database) -> None:
    _job, attempt = records.claim(records.submit_job())
    row = schema.attempts.c
    this = update(schema.attempts).where(row.job_id == attempt.job_id)
    with database.begin() as tx:
        for outcome in Outcome:
            tx.execute(this.values(outcome=outcome, ended_at=records.clock()))
        for kind in ErrorKind:
            tx.execute(this.values(error_kind=kind))
        for billed in Billed:
            tx.execute(this.values(billed=billed))
        for source in CostSource:
            tx.execute(this.values(cost_source=source))
        [last] = attempts_of(tx, attempt.job_id)
    assert (last.outcome, last.error_kind, last.billed) == (list(Outcome)[-1], list(ErrorKind)[-1], list(Billed)[-1])
