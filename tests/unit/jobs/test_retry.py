"""The step after a failed attempt: every rule, the delays, and the deadline."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.backoff import Backoff
from jobs.errors import ERROR_CODES, OUTAGE_KINDS, Billed, ErrorKind, Failure
from jobs.job import Job, OnUnknownOutcome, Truncation
from jobs.lifecycle import Status
from jobs.retry import (
    RULES,
    GiveUp,
    Park,
    Refusal,
    Repeat,
    Reschedule,
    after_unbilled_failure,
    delay_before_retry,
    next_step,
)

NOW = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)
SECOND = timedelta(seconds=1)
BACKOFF = Backoff(base=2 * SECOND, cap=300 * SECOND)
# fmt: off
DESIGNED = [
    (ErrorKind.UNREACHABLE,       Repeat.UNCOUNTED,  Billed.NO,      "provider_unavailable"),
    (ErrorKind.RATE_LIMITED,      Repeat.UNCOUNTED,  Billed.NO,      "rate_limit_exceeded"),
    (ErrorKind.OVERLOADED,        Repeat.UNCOUNTED,  Billed.NO,      "provider_unavailable"),
    (ErrorKind.BAD_CREDENTIALS,   Repeat.UNCOUNTED,  Billed.NO,      "provider_auth"),
    (ErrorKind.OUT_OF_CREDIT,     Repeat.UNCOUNTED,  Billed.NO,      "provider_quota"),
    (ErrorKind.REJECTED,          Repeat.NEVER,      Billed.NO,      "provider_rejected"),
    (ErrorKind.MODEL_UNAVAILABLE, Repeat.NEVER,      Billed.NO,      "model_unavailable"),
    (ErrorKind.CONTEXT_OVERFLOW,  Repeat.NEVER,      Billed.NO,      "context_length_exceeded"),
    (ErrorKind.INTERRUPTED,       Repeat.IF_ALLOWED, Billed.UNKNOWN, "provider_unavailable"),
    (ErrorKind.SERVER_ERROR,      Repeat.IF_ALLOWED, Billed.UNKNOWN, "server_error"),
    (ErrorKind.GATEWAY_TIMEOUT,   Repeat.IF_ALLOWED, Billed.UNKNOWN, "provider_unavailable"),
    (ErrorKind.CALL_DEADLINE,     Repeat.IF_ALLOWED, Billed.UNKNOWN, "deadline_exceeded"),
    (ErrorKind.MALFORMED_ANSWER,  Repeat.IF_ALLOWED, Billed.LIKELY,  "malformed_answer"),
    (ErrorKind.ANSWER_FAILED,     Repeat.COUNTED,    Billed.UNKNOWN, "server_error"),
    (ErrorKind.ANSWER_REFUSED,    Repeat.NEVER,      Billed.UNKNOWN, "provider_rejected"),
    (ErrorKind.EMPTY_OUTPUT,      Repeat.NEVER,      Billed.YES,     "empty_output"),
    (ErrorKind.LOST,              Repeat.IF_ALLOWED, Billed.UNKNOWN, "outcome_unknown"),
    (ErrorKind.JOB_DEADLINE,      Repeat.NEVER,      Billed.UNKNOWN, "deadline_exceeded"),
]
# fmt: on
NO_DELAY = Backoff(timedelta(0), timedelta(0))
MAX_WAIT = timedelta(minutes=5)
JOB = Job(
    id="resp_1",
    api_key_id="key_1",
    model="openai/o3-pro",
    status=Status.IN_PROGRESS,
    attempt=1,
    failures=0,
    max_attempts=5,
    on_unknown_outcome=OnUnknownOutcome.RETRY,
    truncation=Truncation.DISABLED,
    truncation_applied=None,
    background=True,
    priority=5,
    created_at=NOW,
    updated_at=NOW,
    available_at=NOW,
    deadline_at=NOW + timedelta(days=1),
    enqueued_at=None,
    started_at=NOW,
    completed_at=None,
    worker_id="wrk_1",
    provider_response_id=None,
    provider_model=None,
    incomplete_reason=None,
    error_code=None,
    error_kind=None,
    error_message=None,
    error_param=None,
    error_http_status=None,
    usage=None,
    cost=None,
)
REPEATED = [kind for kind in ErrorKind if RULES[kind].repeat in {Repeat.COUNTED, Repeat.IF_ALLOWED}]
PAUSED = [ErrorKind.BAD_CREDENTIALS, ErrorKind.OUT_OF_CREDIT]
FINAL = [kind for kind in ErrorKind if RULES[kind].repeat is Repeat.NEVER]
MAYBE_BILLED = [kind for kind in ErrorKind if RULES[kind].repeat is Repeat.IF_ALLOWED]


def step(
    kind: ErrorKind, job: Job = JOB, failure: dict[str, Any] | None = None, **options: Any
) -> Reschedule | Park | GiveUp:
    failed = Failure(kind, "What the provider said.", **(failure or {}))
    return next_step(failed, job, **{"backoff": BACKOFF, "now": NOW, "jitter": 0.5, **options})


@pytest.mark.parametrize(("kind", "again", "billed", "code"), DESIGNED)
def test_the_table_stands_as_designed(kind: ErrorKind, again: Repeat, billed: Billed, code: str) -> None:
    """Each row is a promise to whoever pays; a change of one has to be made twice, on purpose."""
    assert (RULES[kind].repeat, RULES[kind].billed, ERROR_CODES[kind]) == (again, billed, code)


def test_every_kind_has_a_rule_and_a_code() -> None:
    assert set(RULES) == set(ERROR_CODES) == set(ErrorKind)


class TestRepeated:
    @pytest.mark.parametrize("kind", REPEATED)
    def test_the_first_failure_is_followed_by_another_attempt(self, kind: ErrorKind) -> None:
        expected = NOW + SECOND if RULES[kind].delayed else NOW
        assert step(kind) == Reschedule(expected, failures=1)

    @pytest.mark.parametrize("kind", REPEATED)
    def test_the_last_is_not(self, kind: ErrorKind) -> None:
        allowed = RULES[kind].max_attempts or JOB.max_attempts
        assert isinstance(step(kind, replace(JOB, failures=allowed - 2)), Reschedule)
        assert step(kind, replace(JOB, failures=allowed - 1)) == GiveUp(
            ERROR_CODES[kind], "What the provider said.", failures=allowed
        )

    @pytest.mark.parametrize("kind", REPEATED)
    def test_one_attempt_in_all_means_one(self, kind: ErrorKind) -> None:
        assert step(kind, replace(JOB, max_attempts=1)) == GiveUp(ERROR_CODES[kind], "What the provider said.", 1)

    def test_a_request_cannot_raise_the_cap_of_a_kind(self) -> None:
        patient = replace(JOB, max_attempts=20, failures=1)
        assert isinstance(step(ErrorKind.GATEWAY_TIMEOUT, patient), GiveUp)
        assert isinstance(step(ErrorKind.SERVER_ERROR, patient), Reschedule)

    def test_an_unreadable_answer_is_billed_twice_at_most_and_other_failures_do_not_count(self) -> None:
        patient = replace(JOB, max_attempts=20, failures=5)
        assert isinstance(step(ErrorKind.MALFORMED_ANSWER, patient, same_failures=1), Reschedule)
        assert step(ErrorKind.MALFORMED_ANSWER, patient, same_failures=2) == GiveUp(
            "malformed_answer", "What the provider said.", 6
        )
        assert isinstance(step(ErrorKind.SERVER_ERROR, patient, same_failures=6), Reschedule)

    @pytest.mark.parametrize("kind", MAYBE_BILLED)
    def test_at_most_once_is_not_repeated_and_says_why(self, kind: ErrorKind) -> None:
        gave_up = step(kind, replace(JOB, on_unknown_outcome=OnUnknownOutcome.FAIL))
        assert isinstance(gave_up, GiveUp)
        assert (gave_up.code, gave_up.failures) == ("outcome_unknown", 1)
        assert "billed" in gave_up.message
        assert "What the provider said." in gave_up.message

    @pytest.mark.parametrize("kind", sorted(set(REPEATED) - set(MAYBE_BILLED)))
    def test_at_most_once_still_repeats_what_cannot_have_been_billed(self, kind: ErrorKind) -> None:
        assert isinstance(step(kind, replace(JOB, on_unknown_outcome=OnUnknownOutcome.FAIL)), Reschedule)


class TestPaused:
    """A provider that refuses our key or our credit: that is the operator's to mend, not the job's failure."""

    @pytest.mark.parametrize("kind", PAUSED)
    @pytest.mark.parametrize("failures", [0, 4, 100])
    def test_no_attempt_is_used_up(self, kind: ErrorKind, failures: int) -> None:
        job = replace(JOB, failures=failures, on_unknown_outcome=OnUnknownOutcome.FAIL)
        assert step(kind, job) == Reschedule(NOW, failures)  # due at once: the closed lane holds it back


class TestWeather:
    """Failures that cost nothing and are not the job's: it waits for the provider until its deadline."""

    @pytest.mark.parametrize("kind", sorted(OUTAGE_KINDS))
    @pytest.mark.parametrize("failures", [0, 4, 100])
    def test_no_attempt_is_used_up_however_often_it_comes(self, kind: ErrorKind, failures: int) -> None:
        job = replace(JOB, failures=failures, max_attempts=1, on_unknown_outcome=OnUnknownOutcome.FAIL)
        longest = 5 * SECOND if kind is ErrorKind.UNREACHABLE else 30 * SECOND
        assert step(kind, job, same_failures=50) == Reschedule(NOW + longest / 2, failures)

    @pytest.mark.parametrize(("alike", "seconds"), [(1, 1), (2, 2), (3, 4), (5, 15), (100, 15)])
    def test_the_pauses_double_up_to_half_a_minute(self, alike: int, seconds: float) -> None:
        assert step(ErrorKind.OVERLOADED, same_failures=alike) == Reschedule(NOW + seconds * SECOND, failures=0)

    def test_a_paused_provider_is_not_tried_by_the_same_job_twice_in_a_row(self) -> None:
        refusal = Refusal(9 * SECOND)
        assert step(ErrorKind.UNREACHABLE, refusal=refusal) == Reschedule(NOW + 9 * SECOND, failures=0)

    @pytest.mark.parametrize("kind", sorted(OUTAGE_KINDS))
    def test_the_same_inside_an_answer_may_have_cost_something_and_counts(self, kind: ErrorKind) -> None:
        assert isinstance(step(kind, failure={"http_status": 200}, same_failures=1), Reschedule)
        assert step(kind, replace(JOB, failures=4), {"http_status": 200}) == GiveUp(
            ERROR_CODES[kind], "What the provider said.", failures=5
        )

    @pytest.mark.parametrize("asked", [timedelta(minutes=6), timedelta(days=7), timedelta.max])
    def test_one_answer_that_asks_for_a_day_holds_its_job_up_for_minutes(self, asked: timedelta) -> None:
        again = step(ErrorKind.OVERLOADED, failure={"retry_after": asked})
        assert again == Reschedule(NOW + timedelta(minutes=5), failures=0)

    @pytest.mark.parametrize("asked", [timedelta(hours=1), timedelta(days=7), timedelta.max])
    def test_a_pause_beyond_the_deadline_is_cut_and_fails_nothing(self, asked: timedelta) -> None:
        job = replace(JOB, deadline_at=NOW + 60 * SECOND)
        again = step(ErrorKind.RATE_LIMITED, job, {"retry_after": asked})
        assert again == Reschedule(NOW + 30 * SECOND, failures=0)

    def test_with_a_moment_left_the_deadline_itself_ends_it(self) -> None:
        job = replace(JOB, deadline_at=NOW + SECOND)
        assert step(ErrorKind.RATE_LIMITED, job, {"retry_after": timedelta(hours=1)}) == Reschedule(NOW + SECOND, 0)


class TestFinal:
    @pytest.mark.parametrize("kind", FINAL)
    def test_it_is_not_repeated(self, kind: ErrorKind) -> None:
        assert step(kind) == GiveUp(ERROR_CODES[kind], "What the provider said.", failures=1)

    def test_the_providers_own_code_is_kept_when_its_answer_named_one(self) -> None:
        refused = step(ErrorKind.ANSWER_REFUSED, failure={"provider_code": "invalid_image"})
        assert isinstance(refused, GiveUp)
        assert refused.code == "invalid_image"
        rejected = step(ErrorKind.REJECTED, failure={"provider_code": "unsupported_value"})
        assert isinstance(rejected, GiveUp)
        assert rejected.code == "provider_rejected"


class TestOverflow:
    def test_without_the_policy_it_fails(self) -> None:
        assert isinstance(step(ErrorKind.CONTEXT_OVERFLOW), GiveUp)

    def test_with_it_the_next_attempt_truncates_at_once(self) -> None:
        again = step(ErrorKind.CONTEXT_OVERFLOW, widen_on_overflow=True)
        assert again == Reschedule(NOW, failures=1, truncation=Truncation.AUTO)

    @pytest.mark.parametrize(
        "job",
        [
            replace(JOB, truncation=Truncation.AUTO),
            replace(JOB, truncation_applied=Truncation.AUTO),
            replace(JOB, max_attempts=1),
            replace(JOB, failures=4),
        ],
    )
    def test_once_and_only_while_attempts_are_left(self, job: Job) -> None:
        gave_up = step(ErrorKind.CONTEXT_OVERFLOW, job, widen_on_overflow=True)
        assert isinstance(gave_up, GiveUp)
        assert gave_up.code == "context_length_exceeded"

    @pytest.mark.parametrize("kind", sorted(set(ErrorKind) - {ErrorKind.CONTEXT_OVERFLOW}))
    def test_the_policy_touches_nothing_else(self, kind: ErrorKind) -> None:
        assert step(kind, widen_on_overflow=True) == step(kind)


class TestDelay:
    @pytest.mark.parametrize(("failures", "seconds"), [(1, 2), (2, 4), (3, 8), (8, 256), (9, 300), (1000, 300)])
    def test_the_ceiling_doubles_up_to_the_cap(self, failures: int, seconds: float) -> None:
        delay = delay_before_retry(failures, BACKOFF, jitter=0.999, floor=None)
        assert delay == timedelta(seconds=seconds * 0.999)

    def test_full_jitter_may_wait_for_nothing(self) -> None:
        assert delay_before_retry(9, BACKOFF, jitter=0, floor=None) == timedelta(0)

    @pytest.mark.parametrize(("asked", "given"), [(10, 10), (1, 1), (0, 1)])
    def test_retry_after_is_a_floor(self, asked: int, given: int) -> None:
        assert step(ErrorKind.RATE_LIMITED, failure={"retry_after": asked * SECOND}) == Reschedule(
            NOW + given * SECOND, failures=0
        )

    def test_it_may_go_beyond_the_cap(self) -> None:
        delay = delay_before_retry(1, BACKOFF, jitter=0.5, floor=timedelta(hours=1))
        assert delay == timedelta(hours=1)

    def test_a_lost_call_is_repeated_at_once(self) -> None:
        assert step(ErrorKind.LOST, failure={"retry_after": SECOND}) == Reschedule(NOW, failures=1)

    @given(
        failures=st.integers(1, 10_000),
        jitter=st.floats(0, 1, exclude_max=True),
        base=st.timedeltas(timedelta(0), timedelta(days=1)),
        cap=st.timedeltas(timedelta(0), timedelta(days=1)),
        floor=st.none() | st.timedeltas(timedelta(0), timedelta.max),
    )
    def test_it_stays_between_its_bounds(
        self, failures: int, jitter: float, base: timedelta, cap: timedelta, floor: timedelta | None
    ) -> None:
        delay = delay_before_retry(failures, Backoff(base, cap), jitter=jitter, floor=floor)
        assert (floor or timedelta(0)) <= delay <= max(cap, floor or timedelta(0))


class TestDeadline:
    def test_a_retry_that_could_not_begin_in_time_is_not_waited_for(self) -> None:
        gave_up = step(ErrorKind.SERVER_ERROR, replace(JOB, deadline_at=NOW + SECOND))
        assert isinstance(gave_up, GiveUp)
        assert (gave_up.code, gave_up.failures) == ("deadline_exceeded", 1)
        assert "What the provider said." in gave_up.message

    def test_one_that_just_can_is(self) -> None:
        job = replace(JOB, deadline_at=NOW + SECOND + timedelta(microseconds=1))
        assert step(ErrorKind.SERVER_ERROR, job) == Reschedule(NOW + SECOND, failures=1)

    def test_a_provider_that_asks_for_an_age_is_not_obeyed(self) -> None:
        gave_up = step(ErrorKind.SERVER_ERROR, failure={"retry_after": timedelta.max})
        assert isinstance(gave_up, GiveUp)
        assert gave_up.code == "deadline_exceeded"


class TestParked:
    """A job that wants one billed call at most waits for the provider's log, if there is one."""

    ONCE = replace(JOB, on_unknown_outcome=OnUnknownOutcome.FAIL)

    @pytest.mark.parametrize("kind", MAYBE_BILLED)
    def test_a_lost_answer_is_waited_for_and_not_counted(self, kind: ErrorKind) -> None:
        assert step(kind, self.ONCE, max_wait=MAX_WAIT) == Park(NOW + MAX_WAIT, failures=0)

    def test_nobody_waits_beyond_the_deadline(self) -> None:
        job = replace(self.ONCE, deadline_at=NOW + SECOND)
        assert step(ErrorKind.INTERRUPTED, job, max_wait=MAX_WAIT) == Park(NOW + SECOND, failures=0)
        late = replace(self.ONCE, deadline_at=NOW)
        assert isinstance(step(ErrorKind.INTERRUPTED, late, max_wait=MAX_WAIT), GiveUp)

    @pytest.mark.parametrize("kind", sorted(set(ErrorKind) - set(MAYBE_BILLED)))
    def test_what_is_known_is_not_asked_for(self, kind: ErrorKind) -> None:
        assert not isinstance(step(kind, self.ONCE, max_wait=MAX_WAIT), Park)

    def test_who_wants_a_retry_does_not_wait(self) -> None:
        assert isinstance(step(ErrorKind.INTERRUPTED, max_wait=MAX_WAIT), Reschedule)

    def test_what_failed_for_free_is_repeated_up_to_the_attempts_asked_for(self) -> None:
        job = replace(self.ONCE, error_kind=ErrorKind.INTERRUPTED, error_message="Cut.", max_attempts=2)
        assert after_unbilled_failure(job, NOW) == Reschedule(NOW, failures=1)
        again = replace(job, failures=1)
        assert after_unbilled_failure(again, NOW) == GiveUp("provider_unavailable", "Cut.", failures=2)

    def test_what_would_only_come_again_is_repeated_less_often(self) -> None:
        job = replace(self.ONCE, error_kind=ErrorKind.GATEWAY_TIMEOUT, error_message="Too long.")
        assert after_unbilled_failure(job, NOW) == Reschedule(NOW, failures=1)
        again = replace(job, failures=1)
        assert after_unbilled_failure(again, NOW) == GiveUp("provider_unavailable", "Too long.", failures=2)


@given(
    kind=st.sampled_from(ErrorKind),
    job=st.builds(
        replace,
        st.just(JOB),
        failures=st.integers(0, 30),
        max_attempts=st.integers(1, 20),
        on_unknown_outcome=st.sampled_from(OnUnknownOutcome),
        truncation=st.sampled_from(Truncation),
        truncation_applied=st.none() | st.sampled_from(Truncation),
        deadline_at=st.timedeltas(-timedelta(days=1), timedelta(days=365)).map(lambda span: NOW + span),
    ),
    retry_after=st.none() | st.timedeltas(timedelta(0), timedelta.max),
    jitter=st.floats(0, 1, exclude_max=True),
    relax=st.booleans(),
    backoff=st.sampled_from([BACKOFF, NO_DELAY]),
    max_wait=st.sampled_from([timedelta(0), MAX_WAIT]),
)
def test_whatever_happens_the_end_comes(
    kind: ErrorKind,
    job: Job,
    retry_after: timedelta | None,
    jitter: float,
    relax: bool,
    backoff: Backoff,
    max_wait: timedelta,
) -> None:
    """A next attempt is never in the past or behind the deadline, and a counted failure brings the end nearer."""
    options = {"jitter": jitter, "widen_on_overflow": relax, "backoff": backoff, "max_wait": max_wait}
    decided = step(kind, job, {"retry_after": retry_after}, **options)
    paused = RULES[kind].repeat is Repeat.UNCOUNTED
    job = replace(job, deadline_at=max(job.deadline_at, NOW))
    assert decided.failures == job.failures + (not paused and not isinstance(decided, Park))
    if isinstance(decided, Park):
        assert NOW < decided.until <= job.deadline_at
        return
    if isinstance(decided, Reschedule):
        assert decided.available_at >= NOW
        assert decided.available_at < job.deadline_at or paused or kind is ErrorKind.CONTEXT_OVERFLOW
        assert paused or decided.failures < job.max_attempts
    else:
        assert decided.code
        assert decided.message
