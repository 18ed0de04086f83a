"""Submitting a job, retrying it, and erasing it."""

from dataclasses import asdict, replace
from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from jobs.errors import Billed, JobNotFound, StaleJob
from jobs.job import Answer, Job, OnUnknownOutcome, Outcome, Truncation
from jobs.lifecycle import Status, Verb
from jobs.store import schema
from jobs.store.attempts import attempts_of
from jobs.store.database import Database
from jobs.store.jobs import erase, retry_job
from jobs.store.responses import get_job, get_request, get_response_document
from tests.support.clock import Clock
from tests.support.racing import race
from tests.support.records import (
    ANSWER,
    COST,
    FAILURE,
    MODEL,
    USAGE,
    Records,
    end_one,
    make_spec,
    rows_of,
    snapshot,
    submit_one,
)

HOUR = timedelta(hours=1)
ROUNDS = 50


class TestSubmit:
    def test_a_new_job_is_queued_and_due(self, records: Records, clock: Clock) -> None:
        job = records.submit_job(priority=7, max_attempts=3, on_unknown_outcome=OnUnknownOutcome.FAIL)
        assert records.reload(job) == job
        assert (job.status, job.attempt, job.failures, job.worker_id) == (Status.QUEUED, 0, 0, None)
        assert (job.created_at, job.updated_at, job.available_at) == (clock(), clock(), clock())
        assert (job.priority, job.max_attempts, job.on_unknown_outcome) == (7, 3, OnUnknownOutcome.FAIL)
        assert (job.model, job.api_key_id, job.background) == (MODEL, records.key.id, True)
        assert (job.truncation, job.truncation_applied) == (Truncation.DISABLED, None)
        assert (job.usage, job.cost, job.completed_at, job.enqueued_at) == (None, None, None, None)

    @pytest.mark.parametrize(("ahead", "due_in"), [(HOUR, HOUR), (-HOUR, timedelta(0)), (timedelta(0), timedelta(0))])
    def test_run_at_delays_a_job_and_never_advances_it(
        self, ahead: timedelta, due_in: timedelta, records: Records, clock: Clock
    ) -> None:
        job = records.submit_job(run_at=clock() + ahead)
        assert records.reload(job).available_at == clock() + due_in

    @pytest.mark.parametrize("ahead", [timedelta(0), HOUR])
    def test_enqueued_at_is_set_only_if_the_job_is_due(self, ahead: timedelta, records: Records, clock: Clock) -> None:
        with records.database.begin() as tx:
            job = submit_one(tx, make_spec(records.key.id, run_at=clock() + ahead), clock(), enqueued=True)
        assert records.reload(job).enqueued_at == (None if ahead else clock())

    def test_the_request_is_stored_unchanged(self, records: Records) -> None:
        settings = {"model": MODEL, "z": 1, "a": {"nested": [None, True, 1.5, "ümläut 🎈 \u0000 \ud83d"]}}
        prompt = [{"role": "user", "content": "\u0000 and \\u0000, 'quoted' %s %(x)s :name"}]
        job = records.submit_job(settings=settings, input=prompt)
        with records.database.read() as tx:
            kept, asked = get_request(tx, job.id)
        assert list(kept.items()) == list(settings.items())
        assert asked == prompt

    def test_metadata_is_both_echoed_and_searchable(self, records: Records) -> None:
        labels = {"ticket": "4711", "ümläut": "🎈", "empty": ""}
        job = records.submit_job(metadata=labels, settings={"model": MODEL, "metadata": labels})
        found = rows_of(records.database, schema.job_metadata, job)
        assert {row["key"]: row["value"] for row in found} == labels
        assert {row["api_key_id"] for row in found} == {records.key.id}
        with records.database.read() as tx:
            assert get_response_document(tx, job.id, records.key.id).metadata == labels

    def test_a_job_without_an_api_key_is_refused(self, records: Records, database: Database) -> None:
        before = snapshot(database)
        with pytest.raises(IntegrityError), database.begin() as tx:
            submit_one(tx, make_spec("key_of_nobody"), records.clock())
        assert snapshot(database) == before

    @pytest.mark.parametrize("priority", [-1, 10])
    def test_the_database_refuses_a_priority_out_of_range(self, priority: int, records: Records) -> None:
        with pytest.raises(IntegrityError):
            records.submit_job(priority=priority)


class TestRetry:
    @pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
    def test_it_runs_again_under_its_id_after_its_attempts(
        self, status: Status, records: Records, clock: Clock
    ) -> None:
        job = records.job_in(status)
        now = clock.advance(HOUR)
        with records.database.begin() as tx:
            retried = retry_job(tx, job, now, now + HOUR)
        assert records.reload(job) == retried
        assert (retried.status, retried.attempt, retried.failures) == (Status.QUEUED, job.attempt, 0)
        assert (retried.available_at, retried.deadline_at, retried.completed_at) == (now, now + HOUR, None)
        assert (retried.error_code, retried.error_kind, retried.error_message) == (None, None, None)
        again, attempt = records.claim(retried)
        assert attempt.number == again.attempt == job.attempt + 1

    def test_the_old_answer_is_deleted(self, records: Records, clock: Clock) -> None:
        running, attempt = records.claim(records.submit_job())
        failed = records.end(running, attempt, Verb.FAIL, ANSWER)
        assert rows_of(records.database, schema.answers, failed)
        with records.database.begin() as tx:
            retry_job(tx, failed, clock(), clock() + HOUR)
        assert not rows_of(records.database, schema.answers, failed)
        assert records.reload(failed).cost == COST

    @pytest.mark.parametrize("status", [Status.QUEUED, Status.IN_PROGRESS, Status.COMPLETED, Status.INCOMPLETE])
    def test_only_failed_and_cancelled_jobs_are_retried(self, status: Status, records: Records, clock: Clock) -> None:
        job = records.job_in(status)
        before = snapshot(records.database)
        with pytest.raises(StaleJob), records.database.begin() as tx:
            retry_job(tx, job, clock(), clock() + HOUR)
        assert snapshot(records.database) == before


class TestErase:
    def test_prompt_and_answer_are_erased_and_usage_is_kept(self, records: Records, database: Database) -> None:
        job, attempt = records.claim(records.submit_job(metadata={"ticket": "4711"}))
        job = records.end(job, attempt, Verb.COMPLETE, ANSWER)
        with database.begin() as tx:
            erase(tx, job)
        with database.read() as tx:
            with pytest.raises(JobNotFound):
                get_job(tx, job.id)
            [kept] = attempts_of(tx, job.id)
        for table in (schema.requests, schema.answers, schema.job_metadata):
            assert not rows_of(database, table, job)
        assert (kept.usage, kept.cost, kept.billed, kept.outcome) == (USAGE, COST, Billed.YES, Outcome.COMPLETED)

    def test_error_texts_are_erased_and_error_kinds_are_kept(self, records: Records, database: Database) -> None:
        job, attempt = records.claim(records.submit_job())
        job = records.end(job, attempt, Verb.FAIL, FAILURE)
        with database.begin() as tx:
            erase(tx, job)
        with database.read() as tx:
            [kept] = attempts_of(tx, job.id)
        assert not isinstance(FAILURE.result, Answer)
        assert (kept.error_message, kept.error_kind, kept.http_status) == (None, FAILURE.result.kind, 400)

    @pytest.mark.parametrize("status", [Status.QUEUED, Status.IN_PROGRESS])
    def test_an_open_job_is_not_erased(self, status: Status, records: Records, database: Database) -> None:
        job = records.job_in(status)
        before = snapshot(database)
        with pytest.raises(StaleJob), database.begin() as tx:
            erase(tx, job)
        assert snapshot(database) == before

    def test_a_job_that_was_retried_meanwhile_is_not_erased(self, records: Records, clock: Clock) -> None:
        seen = records.job_in(Status.FAILED)
        with records.database.begin() as tx:
            retried = retry_job(tx, seen, clock(), clock() + HOUR)
        ended = records.end(*records.claim(retried), Verb.COMPLETE, ANSWER)
        with pytest.raises(StaleJob), records.database.begin() as tx:
            erase(tx, seen)
        assert records.reload(ended).status is Status.COMPLETED

    def test_a_late_report_books_its_usage_but_stores_no_text(self, records: Records, database: Database) -> None:
        """The call of a cancelled response ends while, or after, the response is erased."""
        for number in range(ROUNDS):
            running, attempt = records.claim(records.submit_job())
            cancelled = records.move(Verb.CANCEL, running)

            def delete(job: Job = cancelled) -> None:
                with database.begin() as tx:
                    erase(tx, job)

            def report() -> None:
                with database.begin() as tx:
                    late = replace(FAILURE, usage=USAGE, cost=COST)
                    assert end_one(tx, attempt, Outcome.FAILED, records.clock(), late)  # noqa: B023

            if number == 0:
                delete()
                report()
            else:
                race(delete, report)
            with database.read() as tx:
                [kept] = attempts_of(tx, cancelled.id)
            assert (kept.outcome, kept.error_message) == (Outcome.FAILED, None)
            assert (kept.usage, kept.cost) == (USAGE, COST)


def test_a_job_reads_back_as_it_was_returned_from_every_status(records: Records) -> None:
    for status in Status:
        job = records.job_in(status)
        assert asdict(job) == asdict(records.reload(job))
