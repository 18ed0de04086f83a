"""Conversations: read at any depth, waited for, broken, and kept while a follow-up needs them."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from jobs.conversation import Turn
from jobs.errors import ChainBroken
from jobs.job import Job
from jobs.lifecycle import Status, Verb
from jobs.notifications import Notifier
from jobs.redis_url import connect
from jobs.store import conversations, schema
from jobs.store.conversations import check_chain, missing_link, note_sent, read_turns
from jobs.store.database import Database
from jobs.store.fair_scheduler import FairScheduler
from jobs.store.jobs import erase, retry_job
from jobs.store.responses import queue_position
from tests.support.clock import START, Clock
from tests.support.names import get_names
from tests.support.plans import captured
from tests.support.records import ANSWER, MODEL, Records, claim_one, make_key
from worker.maintenance import deadlines, follow_ups, pruner

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
DEEP = 3_000
NOBODY = Notifier(connect("redis://127.0.0.1:1"), get_names)


def follow(records: Records, before: Job, **changes: Any) -> Job:
    return records.submit_job(previous_response_id=before.id, **changes)


def wait_for(records: Records, before: Job, **changes: Any) -> Job:
    return follow(records, before, waits=True, **changes)


def decide(records: Records) -> int:
    return follow_ups.run_once(records.database, NOBODY, records.clock())


def gone(records: Records, job: Job) -> None:
    with records.database.begin() as tx:
        erase(tx, job)


def check(records: Records, job_id: str, key_id: str | None = None) -> bool:
    with records.database.read() as tx:
        return check_chain(tx, job_id, key_id or records.key.id)


class TestCheck:
    @pytest.mark.parametrize("status", [Status.COMPLETED, Status.INCOMPLETE])
    def test_an_answered_response_can_be_followed_at_once(self, status: Status, records: Records) -> None:
        assert check(records, records.job_in(status).id) is False

    @pytest.mark.parametrize("status", [Status.QUEUED, Status.IN_PROGRESS])
    def test_a_follow_up_waits_for_an_open_response(self, status: Status, records: Records) -> None:
        assert check(records, records.job_in(status).id) is True

    @pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
    def test_a_response_without_an_answer_cannot_be_followed(self, status: Status, records: Records) -> None:
        job = records.job_in(status)
        with pytest.raises(ChainBroken, match=job.id) as broken:
            check(records, job.id)
        assert (broken.value.code, broken.value.param) == ("previous_response_failed", "previous_response_id")

    def test_a_response_of_another_key_is_not_found(self, records: Records, database: Database) -> None:
        job = records.job_in(Status.COMPLETED)
        with pytest.raises(ChainBroken, match="not found") as broken:
            check(records, job.id, make_key(database).id)
        with pytest.raises(ChainBroken) as nothing:
            check(records, "resp_0")
        assert (broken.value.code, nothing.value.code) == ("previous_response_not_found",) * 2
        assert broken.value.message == nothing.value.message.replace("resp_0", job.id)

    def test_the_error_names_an_erased_earlier_response(self, records: Records) -> None:
        first = records.job_in(Status.COMPLETED)
        last = records.job_in(Status.COMPLETED, previous_response_id=first.id)
        gone(records, first)
        with pytest.raises(ChainBroken, match=first.id) as broken:
            check(records, last.id)
        assert broken.value.response_id == first.id

    def test_a_conversation_that_is_too_large_is_refused(
        self, records: Records, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = records.job_in(Status.COMPLETED, input="x" * 3_000)
        second = records.job_in(Status.COMPLETED, input="x" * 3_000, previous_response_id=first.id)
        monkeypatch.setattr(conversations, "MOST_BYTES", 6_000)
        assert check(records, first.id) is False
        with pytest.raises(ChainBroken, match="too large") as broken:
            check(records, second.id)
        assert (broken.value.code, broken.value.param) == ("context_length_exceeded", "previous_response_id")


class TestRead:
    def test_turns_are_read_oldest_first_with_inputs_and_outputs(self, records: Records) -> None:
        first = records.job_in(Status.COMPLETED, input="One")
        asked = [{"role": "user", "content": "Two"}]
        second = records.job_in(Status.COMPLETED, input=asked, previous_response_id=first.id)
        output = [{"type": "message", "content": [{"type": "output_text", "text": "Forty-two."}]}]
        with records.database.read() as tx:
            turns = read_turns(tx, second.id, records.key.id)
        assert turns == [
            Turn(first.id, "One", output),
            Turn(second.id, asked, output),
        ]

    def test_any_depth_is_one_query(self, records: Records, database: Database) -> None:
        """The conversation is deeper than Python's stack, and takes one query."""
        ids = [f"resp_{number:032x}" for number in range(DEEP)]
        plain = {
            "api_key_id": records.key.id,
            "model": MODEL,
            "status": Status.COMPLETED,
            "attempt": 1,
            "failures": 0,
            "max_attempts": 5,
            "on_unknown_outcome": "retry",
            "truncation": "disabled",
            "background": True,
            "priority": 5,
            "created_at": START,
            "updated_at": START,
            "available_at": START,
            "deadline_at": START + DAY,
            "completed_at": START,
        }
        rows = [
            {**plain, "id": job_id, "previous_response_id": before}
            for job_id, before in zip(ids, [None, *ids[:-1]], strict=True)
        ]
        with database.begin() as tx:
            tx.execute(insert(schema.jobs), rows)
            tx.execute(insert(schema.requests), [{"job_id": each, "settings": {}, "input": each} for each in ids])
        with captured(database) as statements, database.read() as tx:
            turns = read_turns(tx, ids[-1], records.key.id)
            assert missing_link(tx, ids[-1], records.key.id) is None
        assert [turn.input for turn in turns] == ids
        assert len([each for each in statements if "SELECT" in each.sql]) == 2


class TestWaiting:
    def test_it_is_not_due_before_the_previous_response_has_ended(self, records: Records, clock: Clock) -> None:
        before = records.job_in(Status.IN_PROGRESS)
        job = wait_for(records, before)
        assert (job.status, job.blocked_by, job.available_at) == (Status.QUEUED, before.id, job.deadline_at)
        with records.database.begin() as tx:
            assert claim_one(tx, job.id, records.worker_id, clock()) is None
            assert FairScheduler().pick(tx, clock.advance(HOUR), 10, clock()) == []
            assert queue_position(tx, job) is None
        assert decide(records) == 0
        assert records.reload(job).blocked_by == before.id

    @pytest.mark.parametrize("cut", [False, True])
    def test_it_is_due_once_the_previous_one_has_an_answer(self, cut: bool, records: Records, clock: Clock) -> None:
        before, attempt = records.claim(records.submit_job())
        job = wait_for(records, before)
        records.end(before, attempt, Verb.COMPLETE_PARTIAL if cut else Verb.COMPLETE, ANSWER)
        assert decide(records) == 1
        job = records.reload(job)
        assert (job.status, job.blocked_by, job.available_at) == (Status.QUEUED, None, clock())
        assert records.claim(job)[0].status is Status.IN_PROGRESS
        assert decide(records) == 0

    def test_run_at_is_kept(self, records: Records, clock: Clock) -> None:
        before, attempt = records.claim(records.submit_job())
        run_at = clock() + HOUR
        job = wait_for(records, before, settings={"model": MODEL, "run_at": run_at.timestamp()}, run_at=run_at)
        records.end(before, attempt, Verb.COMPLETE, ANSWER)
        decide(records)
        assert records.reload(job).available_at == run_at

    @pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
    def test_all_follow_ups_fail_at_once_with_the_reason(self, status: Status, records: Records) -> None:
        before = records.submit_job()
        first = wait_for(records, before)
        second, third = wait_for(records, first), wait_for(records, first)
        named = {first: before, second: first, third: first, wait_for(records, second): second}
        if status is Status.CANCELLED:
            records.move(Verb.CANCEL, before)
        else:
            records.end(*records.claim(before), Verb.FAIL, ANSWER, error_code="x", error_message="Unsupported.")
        assert decide(records) == len(named)
        for waited, other in named.items():
            job = records.reload(waited)
            assert (job.status, job.error_code, job.attempt) == (Status.FAILED, "previous_response_failed", 0)
            assert job.error_param == "previous_response_id"
            assert other.id in (job.error_message or "")

    def test_it_fails_when_the_previous_response_is_deleted(self, records: Records) -> None:
        before = records.submit_job()
        job = wait_for(records, before)
        gone(records, records.move(Verb.CANCEL, before))
        assert decide(records) == 1
        job = records.reload(job)
        assert (job.status, job.error_code) == (Status.FAILED, "previous_response_not_found")

    def test_its_own_deadline_ends_its_wait(self, records: Records, clock: Clock) -> None:
        before = records.submit_job(deadline_at=clock() + DAY)
        job = wait_for(records, before, deadline_at=clock() + HOUR)
        assert deadlines.run_once(records.database, NOBODY, clock.advance(HOUR)) == 1
        job = records.reload(job)
        assert (job.status, job.error_code, job.blocked_by) == (Status.FAILED, "deadline_exceeded", None)
        assert before.id in (job.error_message or "")

    def test_it_can_be_cancelled(self, records: Records) -> None:
        job = wait_for(records, records.submit_job())
        assert records.move(Verb.CANCEL, job).blocked_by is None
        assert decide(records) == 0

    def test_a_retry_is_blocked_until_its_conversation_is_checked(self, records: Records, clock: Clock) -> None:
        before = records.submit_job()
        job = wait_for(records, before)
        cancelled = records.move(Verb.CANCEL, before)
        decide(records)
        with records.database.begin() as tx:
            retry_job(tx, records.reload(job), clock(), clock() + DAY)
        assert decide(records) == 1
        assert records.reload(job).status is Status.FAILED
        with records.database.begin() as tx:
            retry_job(tx, cancelled, clock(), clock() + DAY)
            retry_job(tx, records.reload(job), clock(), clock() + DAY)
        assert decide(records) == 0
        records.end(*records.claim(records.reload(before)), Verb.COMPLETE, ANSWER)
        assert decide(records) == 1
        job = records.reload(job)
        assert (job.status, job.blocked_by, job.error_code) == (Status.QUEUED, None, None)


class TestBroken:
    def test_a_follow_up_whose_conversation_is_erased_fails_without_a_call(self, records: Records) -> None:
        first = records.job_in(Status.COMPLETED)
        last = records.job_in(Status.COMPLETED, previous_response_id=first.id)
        job = follow(records, last)
        gone(records, first)
        with records.database.begin() as tx:
            assert claim_one(tx, job.id, records.worker_id, records.clock()) is None
        assert decide(records) == 1
        job = records.reload(job)
        assert (job.status, job.error_code, job.attempt) == (Status.FAILED, "previous_response_not_found", 0)
        assert first.id in (job.error_message or "")

    def test_a_follow_up_of_too_large_an_answer_fails_without_a_call(
        self, records: Records, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = records.submit_job(input="Short.")
        job = wait_for(records, before)
        monkeypatch.setattr(conversations, "MOST_BYTES", 60)
        records.end(*records.claim(before), Verb.COMPLETE, ANSWER)
        assert decide(records) == 1
        job = records.reload(job)
        assert (job.status, job.error_code, job.attempt) == (Status.FAILED, "context_length_exceeded", 0)


class TestSent:
    def test_the_sent_turns_are_stored_for_the_call_that_sent_them(self, records: Records, clock: Clock) -> None:
        job, attempt = records.claim(records.submit_job())
        with records.database.begin() as tx:
            note_sent(tx, attempt, 2, 5, clock())
        job = records.reload(job)
        assert (job.sent_responses, job.sent_items) == (2, 5)


class TestErasing:
    def test_an_unstored_response_is_erased_after_ten_minutes(self, records: Records, clock: Clock) -> None:
        kept, erased = records.job_in(Status.COMPLETED), records.job_in(Status.COMPLETED, store=False)
        assert pruner.run_once(records.database, clock.advance(timedelta(minutes=9, seconds=59)), DAY) == 0
        assert pruner.run_once(records.database, clock.advance(timedelta(seconds=2)), DAY) == 1
        assert records.reload(kept) == kept
        with pytest.raises(ChainBroken):
            check(records, erased.id)

    def test_responses_that_an_open_follow_up_needs_are_kept(self, records: Records, clock: Clock) -> None:
        first = records.job_in(Status.COMPLETED, store=False)
        second = records.job_in(Status.COMPLETED, store=False, previous_response_id=first.id)
        other = records.job_in(Status.COMPLETED, store=False, previous_response_id=first.id)
        last = follow(records, second)
        assert pruner.run_once(records.database, clock.advance(HOUR), DAY) == 1
        with pytest.raises(ChainBroken):
            check(records, other.id)
        assert check(records, second.id) is False
        records.move(Verb.CANCEL, last)
        assert pruner.run_once(records.database, clock(), DAY) == 2
