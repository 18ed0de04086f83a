"""Jobs claimed or ended in one transaction get the same rows as one by one, all of them or none."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from jobs.backoff import Backoff
from jobs.errors import StaleJob
from jobs.job import Answer, Attempt, CallReport, Job
from jobs.lifecycle import Status, Verb
from jobs.store import schema
from jobs.store.attempts import CallRequest, attempts_of, begin_attempts, requests_of
from jobs.store.database import Database
from jobs.store.row_mapping import job_from
from tests.support.clock import Clock
from tests.support.records import ANSWER, Records, rows_of, snapshot
from worker.outcome import EndedCall, Policy, can_batch, record_outcome, record_outcomes

SECOND = timedelta(seconds=1)
POLICY = Policy(Backoff(SECOND, SECOND), call_deadline=timedelta(seconds=30), widen_on_overflow=False)
BARE = CallReport(Answer({"output": []}), http_status=200)


def begin_all(records: Records, jobs: list[Job], most: int | None = None) -> list[tuple[Job, Attempt]]:
    with records.database.begin() as tx:
        return begin_attempts(tx, [job.id for job in jobs], records.worker_id, records.clock(), most)


def ended(job: Job, attempt: Attempt, clock: Clock, report: CallReport = ANSWER) -> EndedCall:
    return EndedCall(job, attempt, report, None, clock())


def outcome_of(database: Database, job: Job) -> tuple[Any, ...]:
    """Return all rows of a job without its id."""
    with database.read() as tx:
        row = job_from(tx.execute(select(schema.jobs).where(schema.jobs.c.id == job.id)).mappings().one())
        attempts = [replace(each, job_id="") for each in attempts_of(tx, job.id)]
    answers = [{**each, "job_id": ""} for each in rows_of(database, schema.answers, job)]
    return replace(row, id=""), attempts, answers


def test_due_jobs_are_begun_and_stale_messages_ignored(records: Records, clock: Clock) -> None:
    due = [records.submit_job() for _ in range(3)]
    later = records.submit_job(run_at=clock() + SECOND)
    others = [records.job_in(status) for status in Status if status is not Status.QUEUED]
    before = outcome_of(records.database, others[0])
    begun = begin_all(records, [*due, later, *others])
    assert {job.id for job, _ in begun} == {job.id for job in due}
    for job, attempt in begun:
        assert records.reload(job) == job
        with records.database.read() as tx:
            assert attempts_of(tx, job.id) == [attempt]
    assert records.reload(later).status is Status.QUEUED
    assert outcome_of(records.database, others[0]) == before


def test_no_more_jobs_are_begun_than_asked_for(records: Records) -> None:
    jobs = [records.submit_job() for _ in range(4)]
    assert len(begin_all(records, jobs, most=3)) == 3
    assert sorted(records.reload(job).status for job in jobs) == [*[Status.IN_PROGRESS] * 3, Status.QUEUED]


@pytest.mark.parametrize("report", [ANSWER, BARE])
def test_outcomes_recorded_together_are_the_same_as_alone(records: Records, clock: Clock, report: CallReport) -> None:
    begun = begin_all(records, [records.submit_job() for _ in range(4)])
    clock.advance(SECOND)
    calls = [ended(*each, clock, report) for each in begun]
    assert all(map(can_batch, calls))
    with records.database.begin() as tx:
        recorded, _ = record_outcomes(tx, calls[:3])
    assert [each.job.id for each in recorded] == [call.job.id for call in calls[:3]]
    with records.database.begin() as tx:
        record_outcome(tx, calls[3], POLICY, 0.5)
    alone = outcome_of(records.database, calls[3].job)
    assert alone[0].status is Status.COMPLETED
    for call in calls[:3]:
        assert outcome_of(records.database, call.job) == alone


def test_answers_with_and_without_usage_are_recorded_together(records: Records, clock: Clock) -> None:
    begun = begin_all(records, [records.submit_job() for _ in range(2)])
    with records.database.begin() as tx:
        record_outcomes(tx, [ended(*begun[0], clock), ended(*begun[1], clock, BARE)])
    assert {records.reload(job).status for job, _ in begun} == {Status.COMPLETED}
    assert [records.reload(job).usage for job, _ in begun] == [ANSWER.usage, None]


def test_if_one_job_is_no_longer_ours_no_outcome_is_recorded(records: Records, clock: Clock) -> None:
    begun = begin_all(records, [records.submit_job() for _ in range(3)])
    records.move(Verb.CANCEL, begun[1][0])
    before = snapshot(records.database)
    with pytest.raises(StaleJob), records.database.begin() as tx:
        record_outcomes(tx, [ended(*each, clock) for each in begun])
    assert snapshot(records.database) == before


@pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.RESCHEDULE])
def test_a_call_gets_its_request_only_while_it_holds_the_job(verb: Verb, records: Records, clock: Clock) -> None:
    begun = [records.claim(records.submit_job(input=f"Question {number}")) for number in range(3)]
    attempts = [attempt for _, attempt in begun]
    asked = [CallRequest({"model": job.model}, f"Question {number}", None) for number, (job, _) in enumerate(begun)]
    with records.database.read() as tx:
        assert requests_of(tx, attempts) == asked
        assert requests_of(tx, attempts[::-1]) == asked[::-1]
    records.move(verb, begun[1][0])
    with records.database.read() as tx:
        assert requests_of(tx, attempts) == [asked[0], None, asked[2]]
        assert requests_of(tx, [attempts[1]]) == [None]


def test_only_complete_answers_of_first_attempts_are_recorded_together(records: Records, clock: Clock) -> None:
    first = records.claim(records.submit_job())
    again = records.claim(records.move(Verb.RESCHEDULE, first[0], available_at=clock()))
    assert can_batch(ended(*first, clock))
    assert not can_batch(ended(*again, clock))
    cut = CallReport(Answer({"output": []}, cut_reason="max_output_tokens"))
    assert not can_batch(ended(*first, clock, cut))
