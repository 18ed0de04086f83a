"""`Idempotency-Key` in the store: bound once to the job, and erased with it."""

import pytest

from jobs.errors import DuplicateRequest, IdempotencyConflict
from jobs.job import Job
from jobs.lifecycle import Status, Verb
from jobs.store import schema
from jobs.store.database import Database
from jobs.store.idempotency import Idempotency, find_earlier, remember
from jobs.store.jobs import erase
from tests.support.racing import race
from tests.support.records import Records, make_key, make_spec, rows_of, snapshot, submit_one

ROUNDS = 30


def of(records: Records, key: str = "order-4711", body: bytes = b"{}") -> Idempotency:
    return Idempotency.of(records.key.id, key, body)


def submit_under(records: Records, idempotency: Idempotency) -> Job:
    with records.database.begin() as tx:
        job = submit_one(tx, make_spec(records.key.id), records.clock())
        remember(tx, [(idempotency, job)])
    return job


def earlier(records: Records, idempotency: Idempotency) -> str | None:
    with records.database.read() as tx:
        return find_earlier(tx, idempotency)


def test_the_same_request_finds_its_job(records: Records) -> None:
    assert earlier(records, of(records)) is None
    job = submit_under(records, of(records))
    assert earlier(records, of(records)) == job.id
    assert earlier(records, of(records, key="order-4712")) is None


def test_another_body_is_a_conflict(records: Records) -> None:
    submit_under(records, of(records))
    with pytest.raises(IdempotencyConflict):
        earlier(records, of(records, body=b"{ }"))


def test_the_same_key_of_another_api_key_is_another_key(records: Records, database: Database) -> None:
    submit_under(records, of(records))
    assert earlier(records, Idempotency.of(make_key(database).id, "order-4711", b"{}")) is None


def test_a_second_request_stores_nothing(records: Records, database: Database) -> None:
    submit_under(records, of(records))
    before = snapshot(database)
    with pytest.raises(DuplicateRequest):
        submit_under(records, of(records))
    assert snapshot(database) == before


def test_it_is_erased_with_the_response(records: Records, database: Database) -> None:
    job = submit_under(records, of(records))
    cancelled = records.move(Verb.CANCEL, job)
    with database.begin() as tx:
        erase(tx, cancelled)
    assert not rows_of(database, schema.idempotency_keys, job)
    assert earlier(records, of(records)) is None


def test_one_of_two_concurrent_requests_submits_the_job(records: Records, database: Database) -> None:
    for number in range(ROUNDS):
        idempotency = of(records, key=f"order-{number}")

        def attempt(idempotency: Idempotency = idempotency) -> str | None:
            try:
                return submit_under(records, idempotency).id
            except DuplicateRequest:
                return None

        [made] = [each for each in race(attempt, attempt) if each is not None]
        assert earlier(records, idempotency) == made
    with database.read() as tx:
        jobs = tx.execute(schema.jobs.select()).all()
    assert len(jobs) == ROUNDS
    assert {job.status for job in jobs} == {Status.QUEUED}
