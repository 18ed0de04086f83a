"""The step after a failed attempt: policy is data, and `next_step` has no clock, I/O or randomness of its own.

`RULES` says for each kind of failure whether the call may have been billed and whether it is repeated. Delays are
exponential with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/); a provider's
`Retry-After` is their minimum. A failure that cost nothing and says nothing about the job uses no attempt, however
often it comes: the job waits for the provider until its deadline.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from jobs.backoff import Backoff
from jobs.errors import ERROR_CODES, OUTAGE_KINDS, Billed, ErrorKind, Failure
from jobs.job import Job, OnUnknownOutcome, Truncation


class Repeat(StrEnum):
    """The condition on which a failed call is repeated."""

    NEVER = "never"
    COUNTED = "counted"
    UNCOUNTED = "uncounted"
    IF_ALLOWED = "if_allowed"


@dataclass(frozen=True)
class Rule:
    """The policy for one kind of failure.

    `max_attempts` limits the attempts of a job in all, `max_same_failures` those that fail in this same way. `delayed`
    is false if the provider is not at fault, so that a delay would spare it nothing.
    """

    repeat: Repeat
    billed: Billed
    max_attempts: int | None = None
    max_same_failures: int | None = None
    delayed: bool = True


# fmt: off
RULES: Final[Mapping[ErrorKind, Rule]] = MappingProxyType({
    ErrorKind.UNREACHABLE:       Rule(Repeat.UNCOUNTED,  Billed.NO),
    ErrorKind.RATE_LIMITED:      Rule(Repeat.UNCOUNTED,  Billed.NO),
    ErrorKind.OVERLOADED:        Rule(Repeat.UNCOUNTED,  Billed.NO),
    ErrorKind.BAD_CREDENTIALS:   Rule(Repeat.UNCOUNTED,  Billed.NO),
    ErrorKind.OUT_OF_CREDIT:     Rule(Repeat.UNCOUNTED,  Billed.NO),
    ErrorKind.REJECTED:          Rule(Repeat.NEVER,      Billed.NO),
    ErrorKind.MODEL_UNAVAILABLE: Rule(Repeat.NEVER,      Billed.NO),
    ErrorKind.CONTEXT_OVERFLOW:  Rule(Repeat.NEVER,      Billed.NO),
    ErrorKind.INTERRUPTED:       Rule(Repeat.IF_ALLOWED, Billed.UNKNOWN),
    ErrorKind.SERVER_ERROR:      Rule(Repeat.IF_ALLOWED, Billed.UNKNOWN),
    ErrorKind.GATEWAY_TIMEOUT:   Rule(Repeat.IF_ALLOWED, Billed.UNKNOWN, max_attempts=2),  # it would time out again
    ErrorKind.CALL_DEADLINE:     Rule(Repeat.IF_ALLOWED, Billed.UNKNOWN),
    ErrorKind.MALFORMED_ANSWER:  Rule(Repeat.IF_ALLOWED, Billed.LIKELY, max_same_failures=2),
    ErrorKind.ANSWER_FAILED:     Rule(Repeat.COUNTED,    Billed.UNKNOWN),
    ErrorKind.ANSWER_REFUSED:    Rule(Repeat.NEVER,      Billed.UNKNOWN),
    ErrorKind.EMPTY_OUTPUT:      Rule(Repeat.NEVER,      Billed.YES),
    ErrorKind.LOST:              Rule(Repeat.IF_ALLOWED, Billed.UNKNOWN, delayed=False),
    ErrorKind.JOB_DEADLINE:      Rule(Repeat.NEVER,      Billed.UNKNOWN),
})
# fmt: on


NO_WAIT: Final = timedelta(0)
LONGEST_OUTAGE_PAUSE: Final = timedelta(seconds=30)
"""A longer pause would delay the job after the provider has recovered."""
LONGEST_UNREACHABLE_PAUSE: Final = timedelta(seconds=5)
"""A longer pause would spare the provider nothing: the job may have met the one host of several that is down."""
LONGEST_PAUSE_ASKED_FOR: Final = timedelta(minutes=5)
"""An answer that asks for a longer pause may be wrong, and would delay other jobs too."""
SHORTEST_PAUSE: Final = timedelta(seconds=1)


@dataclass(frozen=True)
class Refusal:
    """A refusal that says nothing about the job: the pause after it, and whether only this job is refused."""

    pause: timedelta = timedelta(0)
    is_job_specific: bool = False


@dataclass(frozen=True)
class Reschedule:
    """The job goes back to the queue until `available_at`; `failures` is its new count."""

    available_at: datetime
    failures: int
    truncation: Truncation | None = None


@dataclass(frozen=True)
class Park:
    """The job waits until `until` for the provider's log to show the result of its call; no failure is counted yet."""

    until: datetime
    failures: int


@dataclass(frozen=True)
class GiveUp:
    """The job fails with `code` and `message`."""

    code: str
    message: str
    failures: int


def delay_before_retry(failures: int, backoff: Backoff, *, jitter: float, floor: timedelta | None) -> timedelta:
    """Return the delay after the `failures`-th failure (1, 2, ...), with `jitter` drawn from [0, 1)."""
    delay = backoff.pause(failures) * jitter
    return max(delay, floor) if floor is not None else delay


def next_step(
    failure: Failure,
    job: Job,
    *,
    backoff: Backoff,
    now: datetime,
    jitter: float,
    widen_on_overflow: bool = False,
    max_wait: timedelta = NO_WAIT,
    refusal: Refusal | None = None,
    same_failures: int = 1,
) -> Reschedule | Park | GiveUp:
    """Return the next step of `job` after a failed attempt.

    If a retry that uses an attempt could not begin before the job's deadline, the job fails now and the message says
    so. The delay of a retry that uses no attempt is shortened instead, and only the deadline ends the job.
    `max_wait` limits the wait for the provider's log before a call counts as billed. `refusal` describes a refusal that
    says nothing about the job. `same_failures` counts the calls of this run that failed in this way, with this one.
    """
    rule = RULES[failure.kind]
    is_refused = rule.repeat is Repeat.UNCOUNTED and failure.kind not in OUTAGE_KINDS
    if failure.is_our_addition or failure.is_outage or is_refused:
        longest = LONGEST_UNREACHABLE_PAUSE if failure.kind is ErrorKind.UNREACHABLE else LONGEST_OUTAGE_PAUSE
        shape = Backoff(backoff.base, min(backoff.cap, longest))
        floor = None if failure.retry_after is None else min(failure.retry_after, LONGEST_PAUSE_ASKED_FOR)
        delay = delay_before_retry(same_failures, shape, jitter=jitter, floor=floor)
        return _after_uncounted_failure(failure, job, now, refusal or Refusal(), delay)
    failures = job.failures + 1
    if failure.kind is ErrorKind.CONTEXT_OVERFLOW:
        already_widened = job.truncation_applied is Truncation.AUTO or job.truncation is Truncation.AUTO
        if widen_on_overflow and not already_widened and failures < job.max_attempts:
            return Reschedule(now, failures, Truncation.AUTO)
    if rule.repeat is Repeat.NEVER:
        return GiveUp(_final_code(failure), failure.message, failures)
    if rule.repeat is Repeat.IF_ALLOWED and job.on_unknown_outcome is OnUnknownOutcome.FAIL:
        until = min(now + max_wait, job.deadline_at)
        return Park(until, job.failures) if until > now else outcome_unknown(failure.message, failures)
    is_last = rule.max_same_failures is not None and same_failures >= rule.max_same_failures
    if is_last or failures >= _max_attempts(rule, job):
        return GiveUp(_final_code(failure), failure.message, failures)
    delay = timedelta(0)
    if rule.delayed:
        delay = delay_before_retry(failures, backoff, jitter=jitter, floor=failure.retry_after)
    return _after_counted_failure(failure, job, now, failures, delay)


def outcome_unknown(message: str | None, failures: int) -> GiveUp:
    """Return the end of a job whose call, which ended with `message`, may have been billed."""
    return GiveUp("outcome_unknown", f"The call may have been billed, but its answer was lost: {message}", failures)


def billed_without_answer(message: str | None, failures: int) -> GiveUp:
    """Return the end of a job whose call ended with `message` here, though the provider's log shows that it ran."""
    known = "The provider's log shows that the call ran and was billed, but its answer was lost and cannot be fetched"
    return GiveUp("outcome_unknown", f"{known}: {message}", failures)


def after_unbilled_failure(job: Job, now: datetime) -> Reschedule | GiveUp:
    """Return the next step of a parked `job` once the provider's log shows that its call failed and cost nothing.

    It counts like any failure that costs nothing, so that `max_attempts` keeps its meaning.
    """
    kind = job.error_kind or ErrorKind.LOST
    failures = job.failures + 1
    if failures >= _max_attempts(RULES[kind], job):
        return GiveUp(ERROR_CODES[kind], job.error_message or "", failures)
    return Reschedule(now, failures)


def returns_its_attempt(kind: ErrorKind | None) -> bool:
    """Return whether a failure that was counted is uncounted once the log shows that it cost nothing."""
    return kind is not None and RULES[kind].repeat is Repeat.IF_ALLOWED and RULES[kind].max_attempts is None


def _max_attempts(rule: Rule, job: Job) -> int:
    return job.max_attempts if rule.max_attempts is None else min(rule.max_attempts, job.max_attempts)


def _after_counted_failure(
    failure: Failure, job: Job, now: datetime, failures: int, delay: timedelta
) -> Reschedule | GiveUp:
    if delay < job.deadline_at - now:  # not `now + delay`: a provider may ask for more years than a date can hold
        return Reschedule(now + delay, failures)
    message = f"No attempt is possible before the deadline. The last one failed: {failure.message}"
    return GiveUp(ERROR_CODES[ErrorKind.JOB_DEADLINE], message, failures)


def _after_uncounted_failure(
    failure: Failure, job: Job, now: datetime, refusal: Refusal, delay: timedelta
) -> Reschedule | GiveUp:
    if failure.is_our_addition:
        return Reschedule(now, job.failures)
    if failure.is_outage:
        return Reschedule(_within_deadline(max(delay, refusal.pause), now, job), job.failures)
    if refusal.is_job_specific:
        return GiveUp(ERROR_CODES[ErrorKind.REJECTED], _job_specific_message(failure), job.failures + 1)
    return Reschedule(_within_deadline(refusal.pause, now, job), job.failures)


def _within_deadline(delay: timedelta, now: datetime, job: Job) -> datetime:
    """Return the time after `delay`; if that is beyond the deadline, the middle of the time left.

    If hardly any time is left, it is the deadline itself, which ends the job.
    """
    left = max(job.deadline_at - now, timedelta(0))
    if delay < left:  # not `now + delay`: a provider may ask for more years than a date can hold
        return now + delay
    return now + left / 2 if left / 2 >= SHORTEST_PAUSE else now + left


def _job_specific_message(failure: Failure) -> str:
    status = "" if failure.http_status is None else f" (HTTP {failure.http_status})"
    alone = f"The provider refused this request again and again{status} while it took others"
    return f"{alone}." if failure.is_unmistakable else f"{alone}: {failure.message}"


def _final_code(failure: Failure) -> str:
    """Return the provider's own code if its answer had one, else ours for the kind."""
    if failure.kind is ErrorKind.ANSWER_REFUSED and failure.provider_code:
        return failure.provider_code
    return ERROR_CODES[failure.kind]
