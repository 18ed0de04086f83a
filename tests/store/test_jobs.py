"""`move` against the table of transitions: every pair of verb and status, and races between two moves."""

from datetime import timedelta
from typing import Any

import pytest

from jobs.errors import StaleJob
from jobs.job import Job
from jobs.lifecycle import TRANSITIONS, Actor, Status, Verb
from jobs.store.attempts import attempts_of
from jobs.store.database import Database
from jobs.store.jobs import move
from tests.support.clock import Clock
from tests.support.racing import race
from tests.support.records import ANSWER, COST, OUTCOMES, Records, claim_one, end_one, move_one, snapshot

MINUTE = timedelta(minutes=1)
ROUNDS = 50


def needed(verb: Verb, job: Job, records: Records) -> dict[str, Any]:
    return {"attempt": job.attempt + 1, "worker_id": records.worker_id} if verb is Verb.CLAIM else {}


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("verb", list(Verb))
def test_every_verb_in_every_status(verb: Verb, status: Status, records: Records, clock: Clock) -> None:
    job = records.job_in(status)
    now = clock.advance(MINUTE)
    if status not in TRANSITIONS[verb].sources:
        before = snapshot(records.database)
        with pytest.raises(StaleJob) as stale:
            records.move(verb, job, **needed(verb, job, records))
        assert (stale.value.job_id, stale.value.verb) == (job.id, verb)
        assert snapshot(records.database) == before
        return
    moved = records.move(verb, job, **needed(verb, job, records))
    assert records.reload(job) == moved
    assert moved.status is TRANSITIONS[verb].target
    assert moved.updated_at == now
    assert (moved.worker_id is not None) == (moved.status is Status.IN_PROGRESS)
    assert moved.completed_at == (now if moved.status.is_terminal else None)
    assert moved.enqueued_at is None
    assert moved.attempt == job.attempt + (verb is Verb.CLAIM)


@pytest.mark.parametrize("verb", sorted(set(Verb) - {Verb.RETRY, Verb.CLAIM}))
def test_a_later_attempt_fences_off_a_stale_worker(verb: Verb, records: Records) -> None:
    """A worker that was marked dead, but does not know it, changes nothing."""
    stale = records.job_in(Status.IN_PROGRESS)
    rescued = records.move(Verb.RESCUE, stale)
    current, _attempt = records.claim(rescued, records.worker())
    before = snapshot(records.database)
    with pytest.raises(StaleJob):
        records.move(verb, stale)
    assert snapshot(records.database) == before
    assert records.reload(stale) == current


def test_a_move_rolls_back_with_its_transaction(records: Records) -> None:
    job = records.job_in(Status.IN_PROGRESS)
    before = snapshot(records.database)
    with pytest.raises(ZeroDivisionError), records.database.begin() as tx:  # noqa: PT012
        move_one(tx, Verb.COMPLETE, job, records.clock())
        raise ZeroDivisionError
    assert snapshot(records.database) == before


def test_an_actor_can_only_use_its_own_verbs(records: Records) -> None:
    job = records.submit_job()
    before = snapshot(records.database)
    with pytest.raises(ValueError, match="rescuer may not cancel"), records.database.begin() as tx:
        move(tx, Verb.CANCEL, [(job, {})], records.clock(), by=Actor.RESCUER)
    assert snapshot(records.database) == before


def test_changes_of_a_move_are_written(records: Records, clock: Clock) -> None:
    job = records.job_in(Status.IN_PROGRESS)
    later = clock() + MINUTE
    moved = records.move(Verb.RESCHEDULE, job, available_at=later, failures=1, error_message="Slow down.")
    assert (moved.available_at, moved.failures, moved.error_message) == (later, 1, "Slow down.")
    assert records.reload(job) == moved


def test_only_one_of_two_workers_claims_a_job(records: Records, database: Database) -> None:
    second_worker = records.worker()
    for _ in range(ROUNDS):
        job = records.submit_job()

        def claim(worker_id: str, job: Job = job) -> str | None:
            with database.begin() as tx:
                begun = claim_one(tx, job.id, worker_id, records.clock())
            return None if begun is None else worker_id

        claims = race(lambda: claim(records.worker_id), lambda: claim(second_worker))
        [winner] = [each for each in claims if each is not None]
        claimed = records.reload(job)
        assert (claimed.worker_id, claimed.attempt) == (winner, 1)
        with database.read() as tx:
            assert [attempt.worker_id for attempt in attempts_of(tx, job.id)] == [winner]


def test_a_job_is_cancelled_or_completed_but_never_both(records: Records, database: Database) -> None:
    """The first move decides the status, and the call's cost is booked in both cases."""
    winners = set()
    for _ in range(ROUNDS):
        job, attempt = records.claim(records.submit_job())

        def record_outcome(verb: Verb, job: Job = job) -> bool:
            with database.begin() as tx:
                if verb is Verb.COMPLETE:
                    end_one(tx, attempt, OUTCOMES[verb], records.clock(), ANSWER)  # noqa: B023
                try:
                    move_one(tx, verb, job, records.clock())
                except StaleJob:
                    return False
            return True

        completed, cancelled = race(lambda: record_outcome(Verb.COMPLETE), lambda: record_outcome(Verb.CANCEL))
        assert completed != cancelled
        ended = records.reload(job)
        assert ended.status is (Status.COMPLETED if completed else Status.CANCELLED)
        assert ended.cost == COST
        winners.add(ended.status)
    assert winners <= {Status.COMPLETED, Status.CANCELLED}
