"""A caller's cancel races with the worker's answer a thousand times."""

from collections import Counter
from datetime import timedelta
from threading import Barrier

import pytest

from jobs.backoff import Backoff
from jobs.errors import StaleJob
from jobs.job import Attempt, Job, Outcome
from jobs.lifecycle import Status, Verb
from jobs.store.attempts import attempts_of
from jobs.store.database import Database
from tests.support.clock import Clock
from tests.support.racing import race
from tests.support.records import ANSWER, COST, Records, claim_one, make_spec, move_one, submit_one
from worker.outcome import EndedCall, Policy, record_outcome

pytestmark = pytest.mark.long

RACES = 1_000
SECOND = timedelta(seconds=1)
POLICY = Policy(Backoff(SECOND, SECOND), call_deadline=SECOND, widen_on_overflow=False)


def test_cancel_against_complete_a_thousand_times(records: Records, clock: Clock) -> None:
    database = records.database
    held = _held(records, clock)
    together = Barrier(2)

    def answer() -> Counter[str]:
        verbs: Counter[str] = Counter()
        for job, attempt in held:
            together.wait(60)
            with database.begin() as tx:
                outcome = record_outcome(tx, EndedCall(job, attempt, ANSWER, None, clock()), POLICY, 0)
            verbs[outcome.verb if outcome else "booked"] += 1
        return verbs

    def cancel() -> Counter[str]:
        verbs: Counter[str] = Counter()
        for job, _attempt in held:
            together.wait(60)
            verbs[_cancel(database, job, clock)] += 1
        return verbs

    answered, cancelled = race(answer, cancel)
    assert answered["complete"] + cancelled["cancel"] == RACES
    assert answered["booked"] == cancelled["cancel"]
    assert cancelled["stale"] == answered["complete"]
    statuses: Counter[Status] = Counter()
    with database.read() as tx:
        for job, _attempt in held:
            ended = records.reload(job)
            statuses[ended.status] += 1
            [attempt] = attempts_of(tx, job.id)
            assert (attempt.outcome, attempt.cost, ended.cost) == (Outcome.COMPLETED, COST, COST), "booked once"
    assert statuses == Counter({Status.COMPLETED: answered["complete"], Status.CANCELLED: cancelled["cancel"]})


def _held(records: Records, clock: Clock) -> list[tuple[Job, Attempt]]:
    held = []
    with records.database.begin() as tx:
        for _ in range(RACES):
            job = submit_one(tx, make_spec(records.key.id), clock())
            begun = claim_one(tx, job.id, records.worker_id, clock())
            assert begun is not None
            held.append(begun)
    return held


def _cancel(database: Database, job: Job, clock: Clock) -> str:
    try:
        with database.begin() as tx:
            move_one(tx, Verb.CANCEL, job, clock())
    except StaleJob:
        return "stale"
    return "cancel"
