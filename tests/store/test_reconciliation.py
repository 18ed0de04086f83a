"""Reconciliation with the provider's log: a lost call is booked once, and a parked job runs again or ends."""

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from jobs.backoff import Backoff
from jobs.cancel_reason import AbortReason
from jobs.errors import Billed, ErrorKind, Failure, StaleJob
from jobs.job import Attempt, CallReport, Cost, CostSource, Job, OnUnknownOutcome, Outcome, Usage
from jobs.lifecycle import Status, Verb
from jobs.store import schema
from jobs.store.attempts import attempts_of, close_lost, note_response
from jobs.store.fair_scheduler import FairScheduler
from jobs.store.jobs import Moved, erase, retry_job
from jobs.store.provider_limits import log_is_off, probe_now
from jobs.store.reconciliation import MaxLogWait, book_failed, book_ran, doubtful_attempts, parked_jobs
from jobs.store.responses import queue_position
from tests.support.clock import Clock
from tests.support.racing import race
from tests.support.records import ANSWER, COST, USAGE, Records, claim_one, end_one
from worker.outcome import EndedCall, Policy, RecordedOutcome, record_outcome

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
PROVIDER = "api.provider.test"
WAIT = timedelta(minutes=5)
POLICY = Policy(Backoff(SECOND, SECOND), HOUR, widen_on_overflow=False, max_wait=MaxLogWait(PROVIDER, WAIT))
CUT = CallReport(Failure(ErrorKind.INTERRUPTED, "The line went dead."))
LOST = Failure(ErrorKind.LOST, "The worker stopped sending heartbeats.")
LOGGED = Cost(700, CostSource.PROVIDER)
LOGGED_USAGE = Usage(1, 2, 3)


def submit_unrepeatable(records: Records) -> Job:
    return records.submit_job(on_unknown_outcome=OnUnknownOutcome.FAIL, max_attempts=2)


def report(
    records: Records, job: Job, attempt: Attempt, came: CallReport, aborted: AbortReason | None = None
) -> RecordedOutcome | None:
    with records.database.begin() as tx:
        return record_outcome(tx, EndedCall(job, attempt, came, aborted, records.clock()), POLICY, 0)


def park(records: Records) -> tuple[Job, Attempt]:
    """Return a job that must not be billed twice, and its lost call."""
    job, attempt = records.claim(submit_unrepeatable(records))
    outcome = report(records, job, attempt, CUT)
    assert outcome is not None
    assert outcome.verb is Verb.PARK
    return outcome.job, last_attempt(records, job)


def last_attempt(records: Records, job: Job) -> Attempt:
    with records.database.read() as tx:
        return attempts_of(tx, job.id)[-1]


def doubtful(records: Records) -> list[Attempt]:
    with records.database.read() as tx:
        return doubtful_attempts(tx, records.clock() - HOUR, records.clock(), 100)


def log_says_it_ran(records: Records, attempt: Attempt) -> list[Verb]:
    with records.database.begin() as tx:
        return verb_of(book_ran(tx, attempt, LOGGED, LOGGED_USAGE, records.clock()))


def log_says_it_failed(records: Records, attempt: Attempt) -> list[Verb]:
    with records.database.begin() as tx:
        return verb_of(book_failed(tx, attempt, records.clock()))


def verb_of(booked: tuple[Verb, Moved] | None) -> list[Verb]:
    return [] if booked is None else [booked[0]]


class TestParked:
    def test_a_parked_job_has_no_queue_position_and_is_not_claimed(self, records: Records, clock: Clock) -> None:
        job, _attempt = park(records)
        assert records.reload(job) == job
        assert (job.status, job.parked_until, job.failures) == (Status.QUEUED, clock() + WAIT, 0)
        assert (job.error_kind, job.error_message) == (ErrorKind.INTERRUPTED, "The line went dead.")
        behind = records.submit_job()
        with records.database.begin() as tx:
            assert queue_position(tx, job) is None
            assert queue_position(tx, behind) == 1
            assert FairScheduler().pick(tx, clock(), 10, clock()) == [behind.id]
            assert claim_one(tx, job.id, records.worker_id, clock()) is None

    def test_a_job_that_may_repeat_or_has_a_known_cost_is_not_parked(self, records: Records) -> None:
        job, attempt = records.claim(records.submit_job())
        retried = report(records, job, attempt, CUT)
        assert retried is not None
        assert (retried.verb, retried.job.failures) == (Verb.RESCHEDULE, 1)
        job, attempt = records.claim(submit_unrepeatable(records))
        failed = report(records, job, attempt, CallReport(CUT.result, cost=COST))
        assert failed is not None
        assert (failed.verb, failed.job.error_code) == (Verb.FAIL, "outcome_unknown")

    def test_no_job_waits_for_an_unreadable_log(self, records: Records, clock: Clock) -> None:
        with records.database.begin() as tx:
            log_is_off(tx, PROVIDER, clock() + HOUR)
            assert MaxLogWait(PROVIDER, WAIT).at(tx, clock()) == timedelta(0)
            assert MaxLogWait(PROVIDER, WAIT).at(tx, clock() + HOUR) == WAIT
            assert MaxLogWait("another", WAIT).at(tx, clock()) == WAIT
        job, attempt = records.claim(submit_unrepeatable(records))
        failed = report(records, job, attempt, CUT)
        assert failed is not None
        assert failed.verb is Verb.FAIL
        with records.database.begin() as tx:
            probe_now(tx, PROVIDER, clock())
            assert MaxLogWait(PROVIDER, WAIT).at(tx, clock()) == WAIT

    def test_a_job_runs_again_if_the_log_shows_that_its_call_failed(self, records: Records, clock: Clock) -> None:
        job, attempt = park(records)
        clock.advance(SECOND)
        assert log_says_it_failed(records, attempt) == [Verb.UNPARK]
        free = records.reload(job)
        assert (free.status, free.parked_until, free.available_at, free.failures) == (Status.QUEUED, None, clock(), 1)
        assert last_attempt(records, job).billed is Billed.NO
        assert doubtful(records) == []
        done = report(records, *records.claim(free), ANSWER)
        assert done is not None
        assert (done.job.status, records.reload(job).cost) == (Status.COMPLETED, COST)

    def test_a_job_fails_if_the_log_shows_that_its_call_ran(self, records: Records) -> None:
        job, attempt = park(records)
        assert log_says_it_ran(records, attempt) == [Verb.FAIL_UNKNOWN]
        ended = records.reload(job)
        assert (ended.status, ended.error_code, ended.cost) == (Status.FAILED, "outcome_unknown", LOGGED)
        assert "ran and was billed" in (ended.error_message or "")
        assert "The line went dead." in (ended.error_message or "")
        booked = last_attempt(records, job)
        assert (booked.billed, booked.cost, booked.usage) == (Billed.YES, LOGGED, LOGGED_USAGE)

    @pytest.mark.parametrize("says", [log_says_it_ran, log_says_it_failed])
    def test_a_job_that_was_cancelled_meanwhile_stays_cancelled_and_its_cost_is_booked(
        self, says: object, records: Records
    ) -> None:
        job, attempt = park(records)
        records.move(Verb.CANCEL, job)
        assert callable(says)
        assert says(records, attempt) == []
        ended = records.reload(job)
        assert (ended.status, ended.parked_until) == (Status.CANCELLED, None)
        assert ended.cost == (LOGGED if says is log_says_it_ran else None)

    def test_the_call_of_an_erased_job_is_booked(self, records: Records) -> None:
        job, attempt = park(records)
        cancelled = records.move(Verb.CANCEL, job)
        with records.database.begin() as tx:
            erase(tx, cancelled)
        assert log_says_it_ran(records, attempt) == []
        assert last_attempt(records, job).cost == LOGGED

    def test_a_retried_job_is_not_moved_because_of_its_earlier_call(self, records: Records, clock: Clock) -> None:
        job, attempt = park(records)
        cancelled = records.move(Verb.CANCEL, job)
        with records.database.begin() as tx:
            retried = retry_job(tx, cancelled, clock(), clock() + HOUR)
        assert log_says_it_failed(records, attempt) == []
        assert records.reload(job) == retried
        again, second = records.claim(retried)
        outcome = report(records, again, second, CUT)
        assert outcome is not None
        assert outcome.verb is Verb.PARK

    def test_two_reconcilers_move_and_book_it_once(self, records: Records) -> None:
        for _ in range(20):
            job, attempt = park(records)

            def ask(attempt: Attempt = attempt) -> list[Verb]:
                return log_says_it_ran(records, attempt)

            assert sorted(race(ask, ask)) == [[], [Verb.FAIL_UNKNOWN]]
            assert records.reload(job).cost == LOGGED

    def test_all_parked_jobs_are_found_or_those_whose_wait_is_over(self, records: Records, clock: Clock) -> None:
        first, _ = park(records)
        clock.advance(SECOND)
        second, _ = park(records)
        records.submit_job()
        with records.database.read() as tx:
            assert parked_jobs(tx, 10) == [first, second]
            assert parked_jobs(tx, 10, clock() + WAIT - SECOND) == [first]
            assert parked_jobs(tx, 1) == [first]


class TestLateReports:
    """A worker that was marked dead, and whose job is parked, reports the outcome of its call."""

    def lost(self, records: Records) -> tuple[Job, Attempt]:
        job, attempt = records.claim(submit_unrepeatable(records))
        with records.database.begin() as tx:
            close_lost(tx, job.id, attempt.number, records.clock(), LOST)
        records.move(Verb.PARK, job, parked_until=records.clock() + WAIT, error_kind=ErrorKind.LOST)
        return job, attempt

    def test_an_answer_is_adopted(self, records: Records) -> None:
        job, attempt = self.lost(records)
        outcome = report(records, job, attempt, ANSWER)
        assert outcome is not None
        assert (outcome.verb, outcome.job.status) == (Verb.ADOPT, Status.COMPLETED)
        assert (records.reload(job).parked_until, records.reload(job).cost) == (None, COST)

    def test_a_refused_call_costs_nothing_and_is_repeated(self, records: Records) -> None:
        job = records.submit_job(on_unknown_outcome=OnUnknownOutcome.FAIL)
        job, attempt = records.claim(job)
        records.move(Verb.PARK, job, parked_until=records.clock() + WAIT)
        outcome = report(records, job, attempt, CallReport(Failure(ErrorKind.OVERLOADED, "Later.", 503)))
        assert outcome is not None
        assert (outcome.verb, outcome.job.parked_until, outcome.job.failures) == (Verb.UNPARK, None, 0)

    def test_a_rejected_call_fails_the_job(self, records: Records) -> None:
        job, attempt = self.lost(records)
        outcome = report(records, job, attempt, CallReport(Failure(ErrorKind.REJECTED, "No.", 400)))
        assert outcome is not None
        assert (outcome.verb, outcome.job.error_code) == (Verb.FAIL_UNKNOWN, "provider_rejected")

    def test_a_call_that_was_never_sent_is_released(self, records: Records) -> None:
        job, attempt = self.lost(records)
        unsent = CallReport(Failure(ErrorKind.UNREACHABLE, "Stopped."))
        outcome = report(records, job, attempt, unsent, AbortReason.RELEASED)
        assert outcome is not None
        assert (outcome.verb, outcome.job.parked_until) == (Verb.UNPARK, None)

    def test_an_interrupted_call_leaves_the_job_parked(self, records: Records, clock: Clock) -> None:
        job, attempt = self.lost(records)
        waiting = records.reload(job)
        clock.advance(SECOND)
        assert report(records, job, attempt, CUT) is None
        assert records.reload(job) == waiting
        assert [each.number for each in doubtful(records)] == [1]


class TestBilling:
    def test_only_calls_of_unknown_cost_are_doubtful(self, records: Records, clock: Clock) -> None:
        for kind in ErrorKind:
            _job, attempt = records.claim(records.submit_job())
            with records.database.begin() as tx:
                end_one(tx, attempt, Outcome.FAILED, clock(), CallReport(Failure(kind, "No.")))
        report(records, *records.claim(records.submit_job()), ANSWER)
        records.claim(records.submit_job())
        assert {each.billed for each in doubtful(records)} == {Billed.UNKNOWN, Billed.LIKELY}
        with records.database.read() as tx:
            assert doubtful_attempts(tx, clock(), clock() + HOUR, 10) == []
            assert len(doubtful_attempts(tx, clock() - SECOND, clock(), 2)) == 2

    def test_the_latest_calls_come_first(self, records: Records, clock: Clock) -> None:
        """A call that never appears in the log must not delay the others."""
        jobs = []
        for _ in range(3):
            job, attempt = records.claim(records.submit_job())
            report(records, job, attempt, CUT)
            jobs.append(job.id)
            clock.advance(SECOND)
        assert [each.job_id for each in doubtful(records)] == jobs[::-1]

    def test_a_late_answer_adds_only_the_difference(self, records: Records) -> None:
        job, attempt = records.claim(records.submit_job())
        with records.database.begin() as tx:
            close_lost(tx, job.id, 1, records.clock(), LOST)
        records.move(Verb.RESCUE, job)
        log_says_it_ran(records, attempt)
        assert records.reload(job).cost == LOGGED
        report(records, job, attempt, ANSWER)
        assert records.reload(job).cost == COST
        late = last_attempt(records, job)
        assert (late.cost, late.usage, late.billed) == (COST, USAGE, Billed.YES)

    def test_a_late_failure_does_not_undo_what_the_log_showed(self, records: Records) -> None:
        job, attempt = records.claim(records.submit_job())
        with records.database.begin() as tx:
            close_lost(tx, job.id, 1, records.clock(), LOST)
        records.move(Verb.RESCUE, job)
        log_says_it_ran(records, attempt)
        report(records, job, attempt, CUT)
        late = last_attempt(records, job)
        assert (late.outcome, late.billed, late.cost) == (Outcome.FAILED, Billed.YES, LOGGED)
        assert (records.reload(job).cost, doubtful(records)) == (LOGGED, [])

    @pytest.mark.parametrize("log_first", [True, False])
    def test_a_response_that_another_call_fetched_by_id_is_booked_once(self, log_first: bool, records: Records) -> None:
        job, billed = records.claim(records.submit_job())
        with records.database.begin() as tx:
            note_response(tx, billed, "resp_theirs")
            close_lost(tx, job.id, 1, records.clock(), LOST)
        taken, fetching = records.claim(records.move(Verb.RESCUE, job, available_at=records.clock()))
        assert fetching.resumes == "resp_theirs"
        if log_first:
            log_says_it_ran(records, doubtful(records)[0])
        report(records, taken, fetching, ANSWER)
        if not log_first:
            log_says_it_ran(records, doubtful(records)[0])
        with records.database.read() as tx:
            costs = [each.cost for each in attempts_of(tx, job.id)]
        assert costs == ([LOGGED, None] if log_first else [None, COST])
        assert records.reload(job).cost == (LOGGED if log_first else COST)
        assert doubtful(records) == []


class TestUncountedFailure:
    """A failure that cost nothing is not counted for a job that may repeat its call."""

    def test_it_is_uncounted_while_the_job_is_open(self, records: Records, clock: Clock) -> None:
        job, attempt = records.claim(records.submit_job())
        outcome = report(records, job, attempt, CUT)
        assert outcome is not None
        clock.advance(2 * SECOND)
        running, _second = records.claim(outcome.job)
        assert running.failures == 1
        assert log_says_it_failed(records, doubtful(records)[0]) == []
        assert records.reload(job).failures == 0
        assert log_says_it_failed(records, attempt) == [], "said twice"
        assert records.reload(job).failures == 0

    @pytest.mark.parametrize("kind", [ErrorKind.GATEWAY_TIMEOUT, ErrorKind.ANSWER_FAILED])
    def test_a_failure_that_would_recur_stays_counted(self, kind: ErrorKind, records: Records) -> None:
        job, attempt = records.claim(records.submit_job())
        report(records, job, attempt, CallReport(Failure(kind, "No.")))
        log_says_it_failed(records, doubtful(records)[0])
        assert records.reload(job).failures == 1

    def test_a_released_call_was_never_counted(self, records: Records, clock: Clock) -> None:
        first = records.claim(records.submit_job())
        released = report(records, *first, CUT, AbortReason.RELEASED)
        assert released is not None
        report(records, *records.claim(released.job), CUT)
        counted, handed_back = sorted(doubtful(records), key=lambda each: -each.number)
        assert handed_back.outcome is Outcome.RELEASED
        log_says_it_failed(records, handed_back)
        assert records.reload(first[0]).failures == 1
        log_says_it_failed(records, counted)
        assert records.reload(first[0]).failures == 0

    def test_a_failure_of_an_earlier_run_changes_nothing(self, records: Records, clock: Clock) -> None:
        job, attempt = records.claim(records.submit_job(max_attempts=1))
        failed = report(records, job, attempt, CUT)
        assert failed is not None
        clock.advance(SECOND)
        with records.database.begin() as tx:
            retried = retry_job(tx, failed.job, clock(), clock() + HOUR)
        again, second = records.claim(retried)
        with records.database.begin() as tx:
            end_one(tx, second, Outcome.FAILED, clock(), CUT)
        records.move(Verb.RESCHEDULE, again, failures=1, available_at=clock())
        [before] = [each for each in doubtful(records) if each.number == 1]
        log_says_it_failed(records, before)
        assert records.reload(job).failures == 1


@pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.EXPIRE, Verb.FAIL_UNKNOWN, Verb.UNPARK, Verb.ADOPT])
def test_every_verb_unparks_a_parked_job(verb: Verb, records: Records) -> None:
    job, _attempt = park(records)
    assert records.move(verb, job).parked_until is None
    assert records.reload(job).parked_until is None
    with pytest.raises(StaleJob):
        records.move(verb, job)


def test_only_a_queued_job_can_be_parked(records: Records) -> None:
    job, _attempt = park(records)
    row = schema.jobs.c
    ending = update(schema.jobs).where(row.id == job.id).values(status=Status.FAILED, completed_at=records.clock())
    with pytest.raises(IntegrityError), records.database.begin() as tx:
        tx.execute(ending)
