"""Records the outcome of a call in one transaction: its attempt, its usage and cost, and the job's next status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from jobs import text_limits
from jobs.backoff import Backoff
from jobs.cancel_reason import AbortReason
from jobs.errors import Billed, ErrorKind, Failure, JobNotFound, StaleJob
from jobs.job import Answer, Attempt, CallReport, Job, OnUnknownOutcome, Outcome
from jobs.lifecycle import Actor, Verb
from jobs.retry import LONGEST_OUTAGE_PAUSE, NO_WAIT, RULES, GiveUp, Park, Refusal, Reschedule, next_step
from jobs.settings import Settings
from jobs.store.account_refusals import ACCEPTED_AFTER, MOST_REFUSED, REFUSALS, is_job_refusal
from jobs.store.attempts import count_failures, end_attempts, save_answers
from jobs.store.jobs import move
from jobs.store.provider_limits import read_provider_limit
from jobs.store.reconciliation import NO_LOG_WAIT, MaxLogWait, parked_for
from jobs.store.responses import get_job

ENDED_BY_OTHERS = frozenset({AbortReason.CANCELLED, AbortReason.EXPIRED, AbortReason.SUPERSEDED})
AFTER_A_PROBE = timedelta(seconds=1.5)
CUT_HERE = frozenset({ErrorKind.INTERRUPTED, ErrorKind.UNREACHABLE})
# Verbs for a call that reports after its job was parked.
VERBS_WHEN_PARKED: Mapping[Verb, Verb] = {
    Verb.RESCHEDULE: Verb.UNPARK,
    Verb.RELEASE: Verb.UNPARK,
    Verb.FAIL: Verb.FAIL_UNKNOWN,
}
NO_ERROR: Mapping[str, None] = {
    "error_code": None,
    "error_kind": None,
    "error_message": None,
    "error_param": None,
    "error_http_status": None,
}


@dataclass(frozen=True)
class Policy:
    """The rules that decide what follows an attempt."""

    backoff: Backoff
    call_deadline: timedelta
    widen_on_overflow: bool
    max_wait: MaxLogWait = NO_LOG_WAIT
    provider_limit: str = "provider"

    @classmethod
    def from_settings(cls, settings: Settings) -> "Policy":
        """Return the operator's policy."""
        base, cap = settings.retry_base_seconds, settings.retry_max_seconds
        return cls(
            backoff=Backoff(timedelta(seconds=base), timedelta(seconds=max(base, cap))),
            call_deadline=settings.call_deadline,
            widen_on_overflow=settings.truncation_on_overflow == "auto",
            provider_limit=settings.provider_name,
            max_wait=MaxLogWait.from_settings(settings),
        )


@dataclass(frozen=True)
class EndedCall:
    """A call that is over, with its report and, if this process ended it, the reason."""

    job: Job
    attempt: Attempt
    report: CallReport
    aborted: AbortReason | None
    ended_at: datetime


@dataclass(frozen=True)
class RecordedOutcome:
    """The verb that was applied, the job after it, and the ids of the webhook deliveries that this created."""

    verb: Verb
    job: Job
    delivery_ids: Sequence[str] = ()


def record_outcome(tx: Connection, ended: EndedCall, policy: Policy, jitter: float) -> RecordedOutcome | None:
    """Close the call and move its job. Return None if the job no longer belongs to this attempt.

    An answer counts, whatever made this process end the call, as it is billed.
    """
    result = ended.report.result
    if isinstance(result, Answer):
        return _record_answer(tx, ended, result)
    if ended.aborted in ENDED_BY_OTHERS:
        end_attempts(tx, [(ended.attempt, Outcome.CANCELLED, ended.report)], ended.ended_at)
        return None
    if ended.aborted is AbortReason.RELEASED and _can_release(ended, result):
        end_attempts(tx, [(ended.attempt, Outcome.RELEASED, ended.report)], ended.ended_at)
        return _move(tx, Verb.RELEASE, ended.job, ended.ended_at, available_at=ended.ended_at)
    return _record_failure(tx, ended, result, policy, jitter)


def can_batch(ended: EndedCall) -> bool:
    """Return whether `record_outcomes` takes the call: the first of its job, with a complete answer, as most are."""
    result = ended.report.result
    return isinstance(result, Answer) and result.cut_reason is None and ended.attempt.number == 1


def record_outcomes(tx: Connection, calls: Sequence[EndedCall]) -> tuple[list[RecordedOutcome], list[str]]:
    """Record several calls that `can_batch`. Return also the ids of the deliveries to enqueue after the commit.

    The two functions differ on purpose: these statements cost the same number of round trips for 50 calls as for one
    (docs/decisions/0004), but cannot adopt a late answer. If that is needed, each call is recorded alone.

    Raises:
        StaleJob: one of the jobs no longer belongs to its attempt. Roll the transaction back.
    """
    now = max(ended.ended_at for ended in calls)
    moves = [(ended.job, _changes_by_answer(ended.report) | {"cost": ended.report.cost}) for ended in calls]
    moved, deliveries = move(tx, Verb.COMPLETE, moves, now, by=Actor.WORKER)
    jobs = {job.id: job for job in moved}
    end_attempts(tx, [(ended.attempt, Outcome.COMPLETED, ended.report) for ended in calls], now, jobs_moved=True)
    save_answers(tx, [(ended.job, ended.report) for ended in calls])
    return [RecordedOutcome(Verb.COMPLETE, jobs[ended.job.id]) for ended in calls], deliveries


def _changes_by_answer(report: CallReport, cut_reason: str | None = None) -> dict[str, Any]:
    """Return the job's columns that an answer changes."""
    return {
        **NO_ERROR,
        "usage": report.usage,
        "incomplete_reason": cut_reason,
        "provider_response_id": report.provider_response_id,
        "provider_model": report.provider_model,
    }


def _can_release(ended: EndedCall, failure: Failure) -> bool:
    """Return whether this process cut the call, and calling again is billed once only or was asked for."""
    if failure.kind not in CUT_HERE:
        return False
    resumable = ended.report.provider_response_id is not None
    costs_nothing = RULES[failure.kind].billed is Billed.NO
    return resumable or costs_nothing or ended.job.on_unknown_outcome is OnUnknownOutcome.RETRY


def _record_answer(tx: Connection, ended: EndedCall, answer: Answer) -> RecordedOutcome | None:
    cut = answer.cut_reason is not None
    report, now = ended.report, ended.ended_at
    end_attempts(tx, [(ended.attempt, Outcome.INCOMPLETE if cut else Outcome.COMPLETED, report)], now)
    changes = _changes_by_answer(report, answer.cut_reason)
    recorded = _move(tx, Verb.COMPLETE_PARTIAL if cut else Verb.COMPLETE, ended.job, now, **changes)
    if recorded is None:
        recorded = _adopt(tx, ended, Verb.ADOPT_PARTIAL if cut else Verb.ADOPT, changes)
    if recorded is not None:
        save_answers(tx, [(recorded.job, report)])
    return recorded


def _adopt(tx: Connection, ended: EndedCall, verb: Verb, changes: Mapping[str, Any]) -> RecordedOutcome | None:
    """Accept a late answer while the job is still open, whichever worker holds it now."""
    try:
        current = get_job(tx, ended.job.id)
    except JobNotFound:
        return None
    return _move(tx, verb, current, ended.ended_at, **changes)


def _record_failure(
    tx: Connection, ended: EndedCall, failure: Failure, policy: Policy, jitter: float
) -> RecordedOutcome | None:
    now, job, report = ended.ended_at, ended.job, ended.report
    end_attempts(tx, [(ended.attempt, Outcome.FAILED, report)], now)
    relax = policy.widen_on_overflow
    max_wait = policy.max_wait.at(tx, now) if _waits_for_log(ended) else NO_WAIT
    alike = count_failures(tx, job, failure.kind) if _counts_alike(failure) else 1
    step = next_step(
        failure,
        job,
        backoff=policy.backoff,
        now=now,
        jitter=jitter,
        widen_on_overflow=relax,
        max_wait=max_wait,
        refusal=_refusal(tx, ended.attempt, failure, policy.provider_limit, now, alike),
        same_failures=alike,
    )
    facts = {
        "failures": step.failures,
        "error_kind": failure.kind,
        "error_http_status": failure.http_status,
        "error_param": failure.provider_param,
    }
    if isinstance(step, Reschedule | Park):
        facts |= {"error_message": failure.message[: text_limits.ERROR_MESSAGE]}
    if isinstance(step, Park):
        return _move(tx, Verb.PARK, job, now, **facts, parked_until=step.until)
    if isinstance(step, Reschedule):
        facts |= {"available_at": step.available_at, "truncation_applied": step.truncation or job.truncation_applied}
        return _move(tx, Verb.RESCHEDULE, job, now, **facts)
    return _give_up(tx, job, report, step, now, facts)


def _refusal(
    tx: Connection, attempt: Attempt, failure: Failure, provider_limit: str, now: datetime, alike: int
) -> Refusal | None:
    """Return when a job that was refused runs again: after the next probe, so that no job is every probe.

    If the provider is not paused, as it accepts calls for other models, the job runs again ever more rarely.
    """
    if not failure.is_outage and failure.kind not in REFUSALS:
        return None
    probe_at = read_provider_limit(tx, provider_limit).probe_at
    if failure.is_outage:
        return None if probe_at is None else Refusal(probe_at - now + AFTER_A_PROBE)
    if probe_at is None:
        pause = Backoff(ACCEPTED_AFTER, LONGEST_OUTAGE_PAUSE).pause(alike - MOST_REFUSED + 1)
    else:
        pause = max(ACCEPTED_AFTER, probe_at - now)
    return Refusal(pause + AFTER_A_PROBE, is_job_specific=is_job_refusal(tx, attempt, now))


def _counts_alike(failure: Failure) -> bool:
    return failure.is_outage or failure.kind in REFUSALS or RULES[failure.kind].max_same_failures is not None


def _waits_for_log(ended: EndedCall) -> bool:
    """Return whether the job waits for the provider's log, which lists the calls that were sent by their ids."""
    asked_once = ended.job.on_unknown_outcome is OnUnknownOutcome.FAIL
    return asked_once and ended.report.cost is None and ended.attempt.resumes is None


def _give_up(
    tx: Connection, job: Job, report: CallReport, step: GiveUp, now: datetime, facts: Mapping[str, Any]
) -> RecordedOutcome | None:
    final = {"error_code": step.code, "error_message": step.message[: text_limits.ERROR_MESSAGE], "usage": report.usage}
    recorded = _move(tx, Verb.FAIL, job, now, **{**facts, **final})
    if recorded is not None:
        save_answers(tx, [(recorded.job, report)])
    return recorded


def _move(tx: Connection, verb: Verb, job: Job, now: datetime, **changes: Any) -> RecordedOutcome | None:
    """Apply `verb`, or its counterpart if the job is parked for this call. None if another attempt owns the job."""
    try:
        [moved], deliveries = move(tx, verb, [(job, changes)], now, by=Actor.WORKER)
    except StaleJob:
        verb_when_parked = VERBS_WHEN_PARKED.get(verb)
    else:
        return RecordedOutcome(verb, moved, deliveries)
    parked = parked_for(tx, job.id, job.attempt) if verb_when_parked is not None else None
    if verb_when_parked is None or parked is None:
        return None
    try:
        [moved], deliveries = move(tx, verb_when_parked, [(parked, changes)], now, by=Actor.WORKER)
    except StaleJob:
        return None
    return RecordedOutcome(verb_when_parked, moved, deliveries)


def call_deadline_failure(length: timedelta) -> Failure:
    """Return the failure of a call that this process ended at its deadline."""
    return Failure(ErrorKind.CALL_DEADLINE, f"The provider did not answer within {length.total_seconds():g} s.")
