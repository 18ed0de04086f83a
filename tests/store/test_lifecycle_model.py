"""Compare the store with a model in plain Python, through any order of verbs, crashes, late answers and clocks."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from jobs.backoff import Backoff
from jobs.cancel_reason import AbortReason
from jobs.errors import ErrorKind, Failure, StaleJob
from jobs.job import Answer, Attempt, CallReport, Cost, CostSource, Job, OnUnknownOutcome
from jobs.lifecycle import Verb
from jobs.store import schema, workers
from jobs.store.database import Database
from jobs.store.jobs import erase, retry_job
from jobs.store.reconciliation import MaxLogWait, book_failed, book_ran, doubtful_attempts
from jobs.store.responses import get_job
from tests.store.lifecycle_model import AGAIN, ENDS, SECOND, WAIT, ModelAttempt, ModelJob
from tests.support.clock import Clock
from tests.support.dead_broker import DeadBroker, FakeNotifier
from tests.support.records import ANSWER, COST, USAGE, claim_one, make_key, make_spec, move_one, submit_one
from worker.maintenance import deadlines, rescuer
from worker.outcome import EndedCall, Policy, record_outcome

WORKERS = 3
JOBS = st.integers(0, 3)
MAX_WAIT = MaxLogWait("a provider", WAIT)
POLICY = Policy(Backoff(SECOND, 4 * SECOND), timedelta(hours=1), widen_on_overflow=False, max_wait=MAX_WAIT)
LOGGED = Cost(700, CostSource.PROVIDER)
JITTER = 0.5
CUT = CallReport(Answer(ANSWER.result.response, "max_output_tokens"), usage=USAGE, cost=COST)  # type: ignore[union-attr]


# why a failed call is repeated: it is counted, it is not, only the caller's choice decides, or it never is
@dataclass(frozen=True)
class HeldCall:
    """A call that some process holds, even if the rows have moved on."""

    job: Job
    attempt: Attempt


class StoreMachine(RuleBasedStateMachine):
    """Do the same to the store and to the model, and compare them after every step."""

    database: ClassVar[Database]
    held_calls = Bundle("held_calls")

    @initialize(target=held_calls, repeats=st.booleans())
    def begin(self, repeats: bool) -> Any:
        # ahead of the database's clock, so that the rescuer marks only those workers dead that we name
        self.clock = Clock(datetime.now(UTC) + timedelta(days=2))
        self.key = make_key(self.database, "a tenant", self.clock())
        self.model: dict[str, ModelJob] = {}
        self.workers = [self._register() for _ in range(WORKERS)]
        self.submit(3, repeats, 600, 0)
        self.submit(1, not repeats, 60, 0)
        return multiple(self.a_message_is_received(0, 0), self.a_message_is_received(1, 1))

    def _register(self) -> str:
        with self.database.begin() as tx:
            return workers.register(tx, "a-host", 1, 10, self.clock())

    def _job(self, which: int) -> str:
        """Return the id of one of the latest jobs."""
        ids = list(self.model)
        return ids[-1 - which % len(ids)]

    @rule(
        max_attempts=st.integers(1, 4),
        repeats=st.booleans(),
        deadline=st.sampled_from((3, 60, 600, 600)),
        wait=st.sampled_from((0, 0, 2)),
    )
    def submit(self, max_attempts: int, repeats: bool, deadline: int, wait: int) -> None:
        now = self.clock()
        spec = make_spec(
            self.key.id,
            max_attempts=max_attempts,
            on_unknown_outcome=OnUnknownOutcome.RETRY if repeats else OnUnknownOutcome.FAIL,
            deadline_at=now + deadline * SECOND,
            run_at=now + wait * SECOND,
        )
        with self.database.begin() as tx:
            job = submit_one(tx, spec, now)
        self.model[job.id] = ModelJob(max_attempts, repeats, now + wait * SECOND, now + deadline * SECOND)

    @rule(
        what=st.sampled_from(
            ("time", "time", "deadlines", "log", "log", "log", "no log", "cancel", "retry_job", "erase")
        ),
        seconds=st.sampled_from((0.25, 1, 2, 4, 31)),
        which=JOBS,
        ran=st.booleans(),
        twice=st.booleans(),
    )
    def another_process_acts(self, what: str, seconds: float, which: int, ran: bool, twice: bool) -> None:
        match what:
            case "time":
                self.clock.advance(seconds * SECOND)
            case "deadlines":
                self.clock.advance(seconds * SECOND)
                self.deadlines_run()
            case "log":
                self.the_log_is_read(which, ran, twice)
            case "no log":
                self.the_log_is_unreadable()
            case "cancel":
                self.a_job_is_cancelled(self._job(which))
            case "retry_job":
                self.a_job_is_retried(self._job(which))
            case "erase":
                self.a_job_is_erased(self._job(which))

    @rule(target=held_calls, which=JOBS, worker=st.integers(0, WORKERS - 1))
    def a_message_is_received(self, which: int, worker: int) -> Any:
        return self._claim(self._job(which), worker)

    def _claim(self, job_id: str, worker: int) -> Any:
        model, now = self.model[job_id], self.clock()
        with self.database.begin() as tx:
            begun = claim_one(tx, job_id, self.workers[worker], now)
        waits = model.exists and model.status == "queued" and model.parked_until is None
        due = waits and model.available_at <= now < model.deadline_at
        assert (begun is not None) == due
        if begun is None:
            return multiple()
        model.status = "in_progress"
        model.started_at = model.started_at or now
        model.calls.append(ModelAttempt(self.workers[worker], now))
        return HeldCall(*begun)

    @rule(
        target=held_calls,
        held=consumes(held_calls),
        what=st.sampled_from(["goes silent", "taken over", "taken over", *ENDS]),
        worker=st.integers(0, WORKERS - 1),
        confirmed=st.booleans(),
    )
    def a_held_call_changes(self, held: HeldCall, what: ErrorKind | str, worker: int, confirmed: bool) -> Any:
        """A call may end late, and is recorded again if its commit is not confirmed.

        There are few rules with many cases, because hypothesis leaves some rules out of each example.
        """
        match what:
            case "goes silent" | "taken over":
                self.a_worker_goes_silent(held)
                taken = self._claim(held.job.id, worker) if what == "taken over" else None
                return multiple(held, taken) if isinstance(taken, HeldCall) else held
            case "answer" | "cut":
                self.an_answer_arrives(held, what == "cut", confirmed)
            case "released":
                self.a_call_is_released(held)
            case "stopped":
                self.a_call_is_stopped(held)
            case _:
                self.a_call_fails(held, ErrorKind(what), confirmed)
        return multiple()

    def an_answer_arrives(self, held: HeldCall, cut: bool, confirmed: bool) -> None:
        status = "incomplete" if cut else "completed"
        for _ in range(1 if confirmed else 2):
            self._record(held, CUT if cut else ANSWER, None)
        model = self.model[held.job.id]
        call = model.calls[held.attempt.number - 1]
        call.ended(status, in_doubt=False)
        call.cost = COST.microusd
        if model.is_open:
            model.ends(status)

    def a_call_fails(self, held: HeldCall, kind: ErrorKind, confirmed: bool) -> None:
        report = CallReport(Failure(kind, "It failed.", 200 if AGAIN[kind] == "counted" else None))
        self.model[held.job.id].calls[held.attempt.number - 1].kind = kind
        for _ in range(1 if confirmed else 2):
            self._record(held, report, None)
        self._fails(held, AGAIN[kind], in_doubt=kind is ErrorKind.INTERRUPTED)

    def a_call_is_released(self, held: HeldCall) -> None:
        self._record(held, CallReport(Failure(ErrorKind.INTERRUPTED, "Stopped.")), AbortReason.RELEASED)
        model = self.model[held.job.id]
        if not model.repeats:
            self._fails(held, "if allowed", in_doubt=True)
            return
        model.calls[held.attempt.number - 1].ended("released", in_doubt=True)
        if model.holds(held.attempt.number):
            model.status, model.available_at = "queued", self.clock()

    def a_call_is_stopped(self, held: HeldCall) -> None:
        """Calls are stopped only when their job has ended in another way."""
        model = self.model[held.job.id]
        if model.is_open:
            self._move(held.job.id, Verb.CANCEL, allowed=True)
            model.ends("cancelled")
        self._record(held, CallReport(Failure(ErrorKind.INTERRUPTED, "Stopped.")), AbortReason.CANCELLED)
        self.model[held.job.id].calls[held.attempt.number - 1].ended("cancelled", in_doubt=True)

    def a_worker_goes_silent(self, held: HeldCall) -> None:
        """Its calls may continue and report late, because it may be frozen or cut off from the database."""
        silent, now = held.attempt.worker_id, self.clock()
        if silent not in self.workers:
            return
        with self.database.begin() as tx:
            workers.leave(tx, silent, now)
        self.workers[self.workers.index(silent)] = self._register()
        rescuer.run_once(self.database, DeadBroker(), FakeNotifier(), now, timedelta(seconds=10), max_wait=MAX_WAIT)
        for model in self.model.values():
            was_held = model.holds(len(model.calls)) and model.calls[-1].worker == silent
            for call in model.calls:
                if call.worker == silent and call.outcome is None:
                    call.ended("lost", in_doubt=True)
            if was_held:
                model.failed("if allowed", now, lambda _failures: timedelta(0))

    @property
    def _doubtful(self) -> list[tuple[str, int]]:
        return [
            (job_id, number)
            for job_id, model in self.model.items()
            for number, call in enumerate(model.calls, 1)
            if call.in_doubt
        ]

    def the_log_is_read(self, which: int, ran: bool, twice: bool) -> None:
        """The log shows a call of unknown cost, to two processes if `twice`."""
        now = self.clock()
        with self.database.read() as tx:
            found = doubtful_attempts(tx, now - timedelta(days=1), now, 10_000)
        attempts = {(each.job_id, each.number): each for each in found if each.api_key_id == self.key.id}
        assert sorted(attempts) == sorted(self._doubtful)
        if not attempts:
            return
        job_id, number = self._doubtful[-1 - which % len(attempts)]
        attempt, model = attempts[job_id, number], self.model[job_id]
        for _ in range(1 + twice):
            with self.database.begin() as tx:
                book_ran(tx, attempt, LOGGED, USAGE, now) if ran else book_failed(tx, attempt, now)
        call, parked = model.calls[number - 1], model.is_parked_for(number)
        call.in_doubt, call.is_logged = False, True
        if ran:
            call.cost = LOGGED.microusd
        if parked and ran:
            model.failures += 1
            model.ends("failed")
        elif parked:
            model.failures += 1
            if model.failures >= model.max_attempts:
                model.ends("failed")
            else:
                model.available_at, model.parked_until = now, None
        elif not ran and model.is_open and call.outcome in ("failed", "lost"):
            of_this_run = model.started_at is not None and model.started_at <= call.started_at
            model.failures -= of_this_run and model.failures > 0

    def the_log_is_unreadable(self) -> None:
        deadlines.end_parked(self.database, FakeNotifier(), self.clock())
        self._fail_unknown(self.clock() + timedelta(days=1))

    def _fail_unknown(self, until: datetime) -> None:
        for model in self.model.values():
            if model.exists and model.parked_until is not None and model.parked_until <= until:
                model.failures += 1
                model.ends("failed")

    def a_job_is_cancelled(self, job_id: str) -> None:
        model = self.model[job_id]
        if self._move(job_id, Verb.CANCEL, allowed=model.is_open):
            model.ends("cancelled")

    def deadlines_run(self) -> None:
        now = self.clock()
        deadlines.run_once(self.database, FakeNotifier(), now)
        self._fail_unknown(now)
        for model in self.model.values():
            if model.is_open and model.deadline_at <= now:
                model.ends("failed")

    def a_job_is_retried(self, job_id: str) -> None:
        model, now = self.model[job_id], self.clock()
        deadline_at = now + 60 * SECOND
        allowed = model.exists and model.status in ("failed", "cancelled")
        if self._try(job_id, allowed, lambda tx, job: retry_job(tx, job, now, deadline_at)):
            model.status, model.failures = "queued", 0
            model.available_at, model.deadline_at, model.started_at = now, deadline_at, None

    def a_job_is_erased(self, job_id: str) -> None:
        model = self.model[job_id]
        if self._try(job_id, model.exists and not model.is_open, erase):
            model.exists = False

    def _fails(self, held: HeldCall, again: str, *, in_doubt: bool) -> None:
        model, number = self.model[held.job.id], held.attempt.number
        model.calls[number - 1].ended("failed", in_doubt=in_doubt)
        if model.holds(number) or model.is_parked_for(number):
            model.failed(again, self.clock(), lambda failures: min(4, 2 ** (failures - 1)) * JITTER * SECOND)

    def _record(self, held: HeldCall, report: CallReport, aborted: AbortReason | None) -> None:
        ended = EndedCall(held.job, held.attempt, report, aborted, self.clock())
        with self.database.begin() as tx:
            record_outcome(tx, ended, POLICY, JITTER)

    def _move(self, job_id: str, verb: Verb, *, allowed: bool) -> bool:
        return self._try(job_id, allowed, lambda tx, job: move_one(tx, verb, job, self.clock()))

    def _try(self, job_id: str, allowed: bool, act: Callable[[Any, Job], Any]) -> bool:
        """Act on the job and check that the store allows it as the model does; return `allowed`."""
        if not self.model[job_id].exists:
            return False
        with self.database.read() as tx:
            job = get_job(tx, job_id)
        if allowed:
            with self.database.begin() as tx:
                act(tx, job)
        else:
            with pytest.raises(StaleJob), self.database.begin() as tx:
                act(tx, job)
        return allowed

    @invariant()
    def the_rows_equal_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        job, attempt = schema.jobs.c, schema.attempts.c
        with self.database.read() as tx:
            rows = {
                row["id"]: row
                for row in tx.execute(select(schema.jobs).where(job.api_key_id == self.key.id)).mappings()
            }
            calls = select(schema.attempts).where(attempt.api_key_id == self.key.id).order_by(attempt.number)
            found: dict[str, list[ModelAttempt]] = {}
            for row in tx.execute(calls).mappings():
                cost = row["cost_microusd"]
                in_doubt = row["ended_at"] and row["billed"] == "unknown" and cost is None and not row["reconciled_at"]
                call = ModelAttempt(row["worker_id"], row["started_at"], row["outcome"], cost or 0, bool(in_doubt))
                found.setdefault(row["job_id"], []).append(call)
            answers = set(
                tx.execute(select(schema.answers.c.job_id).where(schema.answers.c.job_id.in_(rows))).scalars()
            )
        assert set(rows) == {job_id for job_id, model in self.model.items() if model.exists}
        for job_id, model in self.model.items():
            assert found.get(job_id, []) == model.calls
            if model.exists:
                row = rows[job_id]
                expected = (model.status, len(model.calls), sum(call.cost for call in model.calls))
                assert (row["status"], row["attempt"], row["cost_microusd"] or 0) == expected
                assert (row["failures"], row["deadline_at"]) == (model.failures, model.deadline_at)
                assert row["parked_until"] == model.parked_until
                assert (job_id in answers) == (model.status in ("completed", "incomplete"))
                if model.status == "queued":
                    assert row["available_at"] == model.available_at


def test_the_store_equals_the_model(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # refusals of a single job depend on other jobs, which the model leaves to test_account_refusals.py
    monkeypatch.setattr("worker.outcome.is_job_refusal", lambda *_: False)
    machine = type("Machine", (StoreMachine,), {"database": database})
    bounds = settings(
        max_examples=50,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=bounds)
