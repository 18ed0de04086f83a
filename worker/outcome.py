"""What a call came to, written in one transaction: its ledger row, its usage, and the job's next status."""

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
from jobs.store.attempts import (
    count_failures,
    end_attempts,
    save_answers,
)
from jobs.store.jobs import move
from jobs.store.provider_limits import read_provider_limit
from jobs.store.reconciliation import NO_LOG_WAIT, MaxLogWait, parked_for
from jobs.store.responses import get_job

SETTLED_BY_OTHERS = frozenset({AbortReason.CANCELLED, AbortReason.EXPIRED, AbortReason.SUPERSEDED})
AFTER_A_PROBE = timedelta(seconds=1.5)
CUT_HERE = frozenset({ErrorKind.INTERRUPTED, ErrorKind.UNREACHABLE})
# What a call that reports after its job was parked says of it instead.
OF_A_PARKED_JOB: Mapping[Verb, Verb] = {
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
    """How the end of an attempt is decided."""

    backoff: Backoff
    call_deadline: timedelta
    widen_on_overflow: bool
    max_wait: MaxLogWait = NO_LOG_WAIT
    provider_limit: str = "provider"

    @classmethod
    def from_settings(cls, settings: Settings) -> "Policy":
        """The operator's policy."""
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
    """A call that is over: whose it was, what it brought, and why we ended it, if we did."""

    job: Job
    attempt: Attempt
    report: CallReport
    aborted: AbortReason | None
    ended_at: datetime


@dataclass(frozen=True)
class RecordedOutcome:
    """The verb that was said, and the job after it."""

    verb: Verb
    job: Job


def record_outcome(tx: Connection, ended: EndedCall, policy: Policy, jitter: float) -> RecordedOutcome | None:
    """Book the call and move its job; None when the job was no longer this attempt's to move.

    An answer counts whatever made us end the call: it was paid for.
    """
    result = ended.report.result
    if isinstance(result, Answer):
        return _record_answer(tx, ended, result)
    if ended.aborted in SETTLED_BY_OTHERS:
        end_attempts(tx, [(ended.attempt, Outcome.CANCELLED, ended.report)], ended.ended_at)
        return None
    if ended.aborted is AbortReason.RELEASED and _can_be_handed_back(ended, result):
        end_attempts(tx, [(ended.attempt, Outcome.RELEASED, ended.report)], ended.ended_at)
        return _move(tx, Verb.RELEASE, ended.job, ended.ended_at, available_at=ended.ended_at)
    return _record_failure(tx, ended, result, policy, jitter)


def can_batch(ended: EndedCall) -> bool:
    """Whether a call ended as most do: the first of its job, with a whole answer."""
    result = ended.report.result
    return isinstance(result, Answer) and result.cut_reason is None and ended.attempt.number == 1


def record_outcomes(tx: Connection, calls: Sequence[EndedCall]) -> tuple[list[RecordedOutcome], list[str]]:
    """`settle` for several such calls at once; also the ids of the deliveries to ring for after the commit.

    Raises:
        StaleJob: one of the jobs was no longer its attempt's to move; the transaction is to be rolled back.
    """
    now = max(ended.ended_at for ended in calls)
    moves = [(ended.job, _answered(ended.report) | {"cost": ended.report.cost}) for ended in calls]
    moved, deliveries = move(tx, Verb.COMPLETE, moves, now, by=Actor.WORKER)
    jobs = {job.id: job for job in moved}
    end_attempts(tx, [(ended.attempt, Outcome.COMPLETED, ended.report) for ended in calls], now, jobs_moved=True)
    save_answers(tx, [(ended.job, ended.report) for ended in calls])
    return [RecordedOutcome(Verb.COMPLETE, jobs[ended.job.id]) for ended in calls], deliveries


def _answered(report: CallReport, cut_reason: str | None = None) -> dict[str, Any]:
    """What an answer changes of its job."""
    return {
        **NO_ERROR,
        "usage": report.usage,
        "incomplete_reason": cut_reason,
        "provider_response_id": report.provider_response_id,
        "provider_model": report.provider_model,
    }


def _can_be_handed_back(ended: EndedCall, failure: Failure) -> bool:
    """Whether the call was cut by us, and going on with it buys nothing twice or was asked for."""
    if failure.kind not in CUT_HERE:
        return False
    resumable = ended.report.provider_response_id is not None
    costs_nothing = RULES[failure.kind].billed is Billed.NO
    return resumable or costs_nothing or ended.job.on_unknown_outcome is OnUnknownOutcome.RETRY


def _record_answer(tx: Connection, ended: EndedCall, answer: Answer) -> RecordedOutcome | None:
    cut = answer.cut_reason is not None
    report, now = ended.report, ended.ended_at
    end_attempts(tx, [(ended.attempt, Outcome.INCOMPLETE if cut else Outcome.COMPLETED, report)], now)
    changes = _answered(report, answer.cut_reason)
    settled = _move(tx, Verb.COMPLETE_PARTIAL if cut else Verb.COMPLETE, ended.job, now, **changes)
    if settled is None:
        settled = _adopt(tx, ended, Verb.ADOPT_PARTIAL if cut else Verb.ADOPT, changes)
    if settled is not None:
        save_answers(tx, [(settled.job, report)])
    return settled


def _adopt(tx: Connection, ended: EndedCall, verb: Verb, changes: Mapping[str, Any]) -> RecordedOutcome | None:
    """Take a late answer while the job is still open, whoever holds it now."""
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
    max_wait = policy.max_wait.at(tx, now) if _log_may_tell(ended) else NO_WAIT
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
        facts |= {
            "available_at": step.available_at,
            "truncation_applied": step.truncation or job.truncation_applied,
        }
        return _move(tx, Verb.RESCHEDULE, job, now, **facts)
    return _give_up(tx, job, report, step, now, facts)


def _refusal(
    tx: Connection, attempt: Attempt, failure: Failure, provider_limit: str, now: datetime, alike: int
) -> Refusal | None:
    """The job tries again after whoever probes next, so that no job is every probe.

    Where the provider is not paused, as it takes calls for other models, it tries ever more rarely.
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


def _log_may_tell(ended: EndedCall) -> bool:
    """Whether the job is to wait for the provider's log, which knows the calls that were sent, by their ids."""
    asked_once = ended.job.on_unknown_outcome is OnUnknownOutcome.FAIL
    return asked_once and ended.report.cost is None and ended.attempt.resumes is None


def _give_up(
    tx: Connection, job: Job, report: CallReport, step: GiveUp, now: datetime, facts: Mapping[str, Any]
) -> RecordedOutcome | None:
    final = {"error_code": step.code, "error_message": step.message[: text_limits.ERROR_MESSAGE], "usage": report.usage}
    settled = _move(tx, Verb.FAIL, job, now, **{**facts, **final})
    if settled is not None:
        save_answers(tx, [(settled.job, report)])
    return settled


def _move(tx: Connection, verb: Verb, job: Job, now: datetime, **changes: Any) -> RecordedOutcome | None:
    """Say `verb`, or what it means for a job that is parked for this very call; None when another owns the job."""
    try:
        [moved], _ = move(tx, verb, [(job, changes)], now, by=Actor.WORKER)
    except StaleJob:
        verb_when_parked = OF_A_PARKED_JOB.get(verb)
    else:
        return RecordedOutcome(verb, moved)
    parked = parked_for(tx, job.id, job.attempt) if verb_when_parked is not None else None
    if verb_when_parked is None or parked is None:
        return None
    try:
        [moved], _ = move(tx, verb_when_parked, [(parked, changes)], now, by=Actor.WORKER)
    except StaleJob:
        return None
    return RecordedOutcome(verb_when_parked, moved)


def call_deadline_failure(length: timedelta) -> Failure:
    """What a call that we ended at its own deadline came to."""
    return Failure(ErrorKind.CALL_DEADLINE, f"The provider did not answer within {length.total_seconds():g} s.")
