"""What to do after a failed attempt: policy is data, and the one function under it is pure.

`RULES` says per kind of failure whether the call may have been billed and whether another may follow. Delays are
exponential with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/); a
provider's `Retry-After` is a floor under them. A failure that cost nothing and says nothing about the job uses no
attempt, however often it comes: the job waits for the provider until its deadline.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from jobs.backoff import Backoff
from jobs.errors import ERROR_CODES, WEATHER, Billed, ErrorKind, Failure
from jobs.job import Job, OnUnknownOutcome, Truncation


class Again(StrEnum):
    """Whether a failed call is repeated."""

    NEVER = "never"
    COUNTED = "counted"
    UNCOUNTED = "uncounted"
    IF_ALLOWED = "if_allowed"


@dataclass(frozen=True)
class Rule:
    """The policy for one kind of failure.

    `tries` caps the attempts in all, `purchases` those that fail in this same way. `delayed` is false where the
    provider is not to blame, so nothing is spared.
    """

    again: Again
    billed: Billed
    tries: int | None = None
    purchases: int | None = None
    delayed: bool = True


# fmt: off
RULES: Final[Mapping[ErrorKind, Rule]] = MappingProxyType({
    ErrorKind.UNREACHABLE:       Rule(Again.UNCOUNTED,  Billed.NO),
    ErrorKind.RATE_LIMITED:      Rule(Again.UNCOUNTED,  Billed.NO),
    ErrorKind.OVERLOADED:        Rule(Again.UNCOUNTED,  Billed.NO),
    ErrorKind.BAD_CREDENTIALS:   Rule(Again.UNCOUNTED,  Billed.NO),
    ErrorKind.OUT_OF_CREDIT:     Rule(Again.UNCOUNTED,  Billed.NO),
    ErrorKind.REJECTED:          Rule(Again.NEVER,      Billed.NO),
    ErrorKind.MODEL_UNAVAILABLE: Rule(Again.NEVER,      Billed.NO),
    ErrorKind.CONTEXT_OVERFLOW:  Rule(Again.NEVER,      Billed.NO),
    ErrorKind.INTERRUPTED:       Rule(Again.IF_ALLOWED, Billed.UNKNOWN),
    ErrorKind.SERVER_ERROR:      Rule(Again.IF_ALLOWED, Billed.UNKNOWN),
    ErrorKind.GATEWAY_TIMEOUT:   Rule(Again.IF_ALLOWED, Billed.UNKNOWN, tries=2),  # a blind repeat times out again
    ErrorKind.CALL_DEADLINE:     Rule(Again.IF_ALLOWED, Billed.UNKNOWN),
    ErrorKind.MALFORMED_ANSWER:  Rule(Again.IF_ALLOWED, Billed.LIKELY, purchases=2),
    ErrorKind.ANSWER_FAILED:     Rule(Again.COUNTED,    Billed.UNKNOWN),
    ErrorKind.ANSWER_REFUSED:    Rule(Again.NEVER,      Billed.UNKNOWN),
    ErrorKind.EMPTY_OUTPUT:      Rule(Again.NEVER,      Billed.YES),
    ErrorKind.LOST:              Rule(Again.IF_ALLOWED, Billed.UNKNOWN, delayed=False),
    ErrorKind.JOB_DEADLINE:      Rule(Again.NEVER,      Billed.UNKNOWN),
})
# fmt: on


NO_WAIT: Final = timedelta(0)
LONGEST_WEATHER_PAUSE: Final = timedelta(seconds=30)
"""Who was refused in an outage is not to be the last to hear of its end."""
LONGEST_UNREACHED_PAUSE: Final = timedelta(seconds=5)
"""One that was not reached has spared nobody by waiting: it may have met the one host of several that is down."""
LONGEST_PAUSE_ASKED_FOR: Final = timedelta(minutes=5)
"""One answer that asks for a day is to hold up neither its job nor the others for so long: it may be wrong."""
SHORTEST_PAUSE: Final = timedelta(seconds=1)


@dataclass(frozen=True)
class Refusal:
    """A refusal that says nothing about the job: when it may try again, and whether it alone is refused."""

    again_after: timedelta = timedelta(0)
    is_own: bool = False


@dataclass(frozen=True)
class Reschedule:
    """The job goes back to the queue until `available_at`; `failures` is its new count."""

    available_at: datetime
    failures: int
    truncation: Truncation | None = None


@dataclass(frozen=True)
class Park:
    """The job waits until `until` for the provider's log to tell what became of its call; no failure is counted yet."""

    until: datetime
    failures: int


@dataclass(frozen=True)
class GiveUp:
    """The job fails with `code` and `message`."""

    code: str
    message: str
    failures: int


def delay_before_retry(failures: int, backoff: Backoff, *, jitter: float, floor: timedelta | None) -> timedelta:
    """How long to wait after the `failures`-th failure (1, 2, ...), with `jitter` drawn from [0, 1)."""
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
    alike: int = 1,
) -> Reschedule | Park | GiveUp:
    """Turn a failed attempt of `job` into what happens to the job.

    A retry that could not begin before the job's deadline is not waited for: the job fails now, and says why. One that
    uses no attempt is always waited for: its pause is cut, and only the deadline itself ends the job.
    `max_wait` is for how long the provider's log may be waited for before a call counts as billed. `refusal` is what is
    known of one that says nothing about the job. `alike` is how many calls of this run, this one included, failed in
    this way.
    """
    rule = RULES[failure.kind]
    if failure.was_added or failure.is_weather or (rule.again is Again.UNCOUNTED and failure.kind not in WEATHER):
        longest = LONGEST_UNREACHED_PAUSE if failure.kind is ErrorKind.UNREACHABLE else LONGEST_WEATHER_PAUSE
        shape = Backoff(backoff.base, min(backoff.cap, longest))
        floor = None if failure.retry_after is None else min(failure.retry_after, LONGEST_PAUSE_ASKED_FOR)
        delay = delay_before_retry(alike, shape, jitter=jitter, floor=floor)
        return _after_a_refusal(failure, job, now, refusal or Refusal(), delay)
    failures = job.failures + 1
    if failure.kind is ErrorKind.CONTEXT_OVERFLOW:
        already_widened = job.truncation_applied is Truncation.AUTO or job.truncation is Truncation.AUTO
        if widen_on_overflow and not already_widened and failures < job.max_attempts:
            return Reschedule(now, failures, Truncation.AUTO)
    if rule.again is Again.NEVER:
        return GiveUp(_final_code(failure), failure.message, failures)
    if rule.again is Again.IF_ALLOWED and job.on_unknown_outcome is OnUnknownOutcome.FAIL:
        until = min(now + max_wait, job.deadline_at)
        return Park(until, job.failures) if until > now else outcome_unknown(failure.message, failures)
    allowed = job.max_attempts if rule.tries is None else min(rule.tries, job.max_attempts)
    if failures >= allowed or (rule.purchases is not None and alike >= rule.purchases):
        return GiveUp(_final_code(failure), failure.message, failures)
    delay = timedelta(0)
    if rule.delayed:
        delay = delay_before_retry(failures, backoff, jitter=jitter, floor=failure.retry_after)
    return _again_after(delay, now, failures, failure, job)


def outcome_unknown(message: str | None, failures: int) -> GiveUp:
    """Nobody can tell whether the call, which ended with `message`, was billed."""
    return GiveUp("outcome_unknown", f"The call may have been billed, but its answer was lost: {message}", failures)


def billed_in_vain(message: str | None, failures: int) -> GiveUp:
    """The provider's log shows that the call, which ended with `message` for us, ran."""
    known = "The provider's log shows that the call ran and was billed, but its answer was lost and cannot be fetched"
    return GiveUp("outcome_unknown", f"{known}: {message}", failures)


def after_a_free_failure(job: Job, now: datetime) -> Reschedule | GiveUp:
    """The provider's log shows that the call for which `job` is parked failed, and cost nothing: it may be repeated.

    It counts as any failure that costs nothing does, so that `max_attempts` means what it says.
    """
    kind = job.error_kind or ErrorKind.LOST
    tries = RULES[kind].tries
    failures = job.failures + 1
    if failures >= (job.max_attempts if tries is None else min(tries, job.max_attempts)):
        return GiveUp(ERROR_CODES[kind], job.error_message or "", failures)
    return Reschedule(now, failures)


def gives_its_attempt_back(kind: ErrorKind | None) -> bool:
    """Whether a failure that was counted, and now turns out to have cost nothing, should not have been."""
    return kind is not None and RULES[kind].again is Again.IF_ALLOWED and RULES[kind].tries is None


def _again_after(delay: timedelta, now: datetime, failures: int, failure: Failure, job: Job) -> Reschedule | GiveUp:
    if delay < job.deadline_at - now:  # this way round, as a provider may ask for more years than a date can hold
        return Reschedule(now + delay, failures)
    message = f"No attempt is possible before the deadline. The last one failed: {failure.message}"
    return GiveUp(ERROR_CODES[ErrorKind.JOB_DEADLINE], message, failures)


def _after_a_refusal(
    failure: Failure, job: Job, now: datetime, refusal: Refusal, delay: timedelta
) -> Reschedule | GiveUp:
    if failure.was_added:
        return Reschedule(now, job.failures)
    if failure.is_weather:
        return Reschedule(_within(max(delay, refusal.again_after), now, job), job.failures)
    if refusal.is_own:
        return GiveUp(ERROR_CODES[ErrorKind.REJECTED], _refused_alone(failure), job.failures + 1)
    return Reschedule(_within(refusal.again_after, now, job), job.failures)


def _within(delay: timedelta, now: datetime, job: Job) -> datetime:
    """When to try again: after `delay`, or, where that is beyond the deadline, when half of the time left has passed.

    With a moment left nothing is tried any more, and the deadline ends the job.
    """
    left = max(job.deadline_at - now, timedelta(0))
    if delay < left:  # this way round, as a provider may ask for more years than a date can hold
        return now + delay
    return now + left / 2 if left / 2 >= SHORTEST_PAUSE else now + left


def _refused_alone(failure: Failure) -> str:
    status = "" if failure.http_status is None else f" (HTTP {failure.http_status})"
    alone = f"The provider refused this request again and again{status} while it took others"
    return f"{alone}." if failure.is_unmistakable else f"{alone}: {failure.message}"


def _final_code(failure: Failure) -> str:
    """The provider's own code when its answer named one, else ours for the kind."""
    if failure.kind is ErrorKind.ANSWER_REFUSED and failure.provider_code:
        return failure.provider_code
    return ERROR_CODES[failure.kind]
