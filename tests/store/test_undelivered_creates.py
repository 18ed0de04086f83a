"""Undelivered creates: only a lost one is joined, by one retry, within 15 minutes."""

from datetime import datetime, timedelta
from functools import partial

import pytest

from jobs.job import Job
from jobs.lifecycle import Verb
from jobs.store import schema
from jobs.store.database import Database
from jobs.store.jobs import erase
from jobs.store.undelivered_creates import (
    ApiProcess,
    EarlierCreate,
    UndeliveredCreate,
    announce_submits,
    delete_delivered,
    find_earlier_creates,
    insert_undelivered_creates,
    mark_lost,
    prune_undelivered_creates,
    record_heartbeat,
    remove_process,
    submits_under_way,
    take_over,
)
from tests.support.racing import race
from tests.support.records import Records, make_key, make_spec, rows_of, submit_one

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
ROUNDS = 20


def request(records: Records, number: int = 1, *, body: str = "equal", process: str = "") -> UndeliveredCreate:
    return UndeliveredCreate(records.key.id, body, f"req_{number}", process or f"api_{number}")


def a_process(process_id: str) -> ApiProcess:
    return ApiProcess(process_id, "host", 4711, 0.0)


def create(records: Records, request: UndeliveredCreate) -> Job:
    with records.database.begin() as tx:
        record_heartbeat(tx, a_process(request.process_id), records.clock())
        job = submit_one(tx, make_spec(records.key.id), records.clock())
        insert_undelivered_creates(tx, [(request, job)], records.clock())
    return job


def lost(records: Records, request: UndeliveredCreate) -> None:
    with records.database.begin() as tx:
        mark_lost(tx, [request.request_id], records.clock())


def earlier(records: Records, request: UndeliveredCreate, asked_at: datetime | None = None) -> list[EarlierCreate]:
    with records.database.read() as tx:
        return find_earlier_creates(tx, request, asked_at or records.clock(), records.clock())


def joinable(records: Records, request: UndeliveredCreate, asked_at: datetime | None = None) -> list[str]:
    return [each.job_id for each in earlier(records, request, asked_at) if each.is_lost]


def join(records: Records, request: UndeliveredCreate) -> str | None:
    with records.database.begin() as tx:
        for each in find_earlier_creates(tx, request, records.clock(), records.clock()):
            if each.is_lost and take_over(tx, each, request, records.clock()):
                return each.job_id
    return None


def test_a_create_whose_client_waits_is_not_joined(records: Records) -> None:
    job = create(records, request(records))
    assert [(each.job_id, each.is_lost) for each in earlier(records, request(records, 2))] == [(job.id, False)]
    assert join(records, request(records, 2)) is None


def test_a_create_about_to_be_committed_is_visible_until_then(records: Records, database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    first, other = request(records, 1), request(records, 2, body="other")
    with database.begin() as tx:
        announce_submits(tx, [first, first])
        with database.read() as elsewhere:
            assert len(submits_under_way(elsewhere, first)) == 1
            assert not submits_under_way(elsewhere, other)
            with database.begin() as another:
                announce_submits(another, [other, first])  # the locks are shared: it does not wait
                assert len(submits_under_way(elsewhere, first)) == 2
    with database.read() as tx:
        assert not submits_under_way(tx, first)


def test_a_lost_create_is_joined_once(records: Records) -> None:
    first = create(records, request(records, 1))
    records.clock.advance(SECOND)
    second = create(records, request(records, 2))
    lost(records, request(records, 1))
    records.clock.advance(SECOND)
    lost(records, request(records, 2))
    assert [join(records, request(records, number)) for number in (3, 4, 5)] == [first.id, second.id, None]


def test_a_retry_that_joined_may_be_lost_in_turn(records: Records) -> None:
    job = create(records, request(records, 1))
    lost(records, request(records, 1))
    assert join(records, request(records, 2)) == job.id
    lost(records, request(records, 1))  # recorded late: the job is no longer the first request's
    assert joinable(records, request(records, 3)) == []
    lost(records, request(records, 2))
    assert join(records, request(records, 3)) == job.id


def test_a_delivered_create_is_deleted(records: Records, database: Database) -> None:
    job = create(records, request(records))
    with database.begin() as tx:
        delete_delivered(tx, ["req_1", "req_other"])
    assert not rows_of(database, schema.undelivered_creates, job)


def test_creates_with_another_body_or_key_are_not_joined(records: Records, database: Database) -> None:
    create(records, request(records))
    lost(records, request(records))
    assert joinable(records, request(records, 2, body="another")) == []
    assert joinable(records, UndeliveredCreate(make_key(database).id, "equal", "req_2", "api_1")) == []


def test_creates_of_a_killed_process_are_lost_once_it_is_silent(records: Records) -> None:
    job = create(records, request(records, process="api_killed"))
    asked_at = records.clock.advance(MINUTE)  # before, the database may have been away
    assert joinable(records, request(records, 2), asked_at) == []
    records.clock.advance(4 * SECOND)
    assert joinable(records, request(records, 2), asked_at) == []
    records.clock.advance(SECOND)
    assert joinable(records, request(records, 2), asked_at) == [job.id]


def test_the_process_of_the_retry_counts_as_alive(records: Records) -> None:
    create(records, request(records))
    asked_at = records.clock.advance(MINUTE)
    records.clock.advance(MINUTE)
    assert joinable(records, request(records, 2, process="api_1"), asked_at) == []


def test_a_heartbeat_after_the_first_look_ends_the_silence(records: Records, database: Database) -> None:
    create(records, request(records))
    asked_at = records.clock.advance(MINUTE)
    records.clock.advance(SECOND)
    with database.begin() as tx:
        record_heartbeat(tx, a_process("api_1"), records.clock())
    records.clock.advance(5 * SECOND)
    assert joinable(records, request(records, 2), asked_at) == []


def test_undelivered_creates_of_a_stopped_process_are_lost_at_once(records: Records, database: Database) -> None:
    job = create(records, request(records))
    records.clock.advance(60 * MINUTE)
    with database.begin() as tx:
        remove_process(tx, "api_1", records.clock())
    assert joinable(records, request(records, 2)) == [job.id]


def test_a_process_without_a_heartbeat_yet_is_not_silent(records: Records, database: Database) -> None:
    with database.begin() as tx:
        job = submit_one(tx, make_spec(records.key.id), records.clock())
        insert_undelivered_creates(tx, [(request(records, process="api_new"), job)], records.clock())
    assert joinable(records, request(records, 2)) == []


def test_a_create_lost_15_minutes_ago_is_not_joined(records: Records, database: Database) -> None:
    job = create(records, request(records))
    lost(records, request(records))
    silent = create(records, request(records, 2, process="api_killed"))
    records.clock.advance(15 * MINUTE - SECOND)
    asked_at = records.clock() - 5 * SECOND
    assert set(joinable(records, request(records, 3), asked_at)) == {job.id, silent.id}
    records.clock.advance(SECOND)
    assert joinable(records, request(records, 3), asked_at) == []
    records.clock.advance(SECOND)
    with database.begin() as tx:
        prune_undelivered_creates(tx, records.clock())
        assert tx.execute(schema.undelivered_creates.select()).all() == []
        assert tx.execute(schema.api_processes.select()).all() == []


def test_a_create_held_for_hours_is_kept(records: Records, database: Database) -> None:
    job = create(records, request(records))
    records.clock.advance(120 * MINUTE)
    with database.begin() as tx:
        record_heartbeat(tx, a_process("api_1"), records.clock())
        prune_undelivered_creates(tx, records.clock())
    lost(records, request(records))
    assert join(records, request(records, 2)) == job.id


def test_it_is_deleted_with_the_response(records: Records, database: Database) -> None:
    job = create(records, request(records))
    cancelled = records.move(Verb.CANCEL, job)
    with database.begin() as tx:
        erase(tx, cancelled)
    assert not rows_of(database, schema.undelivered_creates, job)


def test_one_of_two_concurrent_retries_joins(records: Records) -> None:
    for number in range(ROUNDS):
        first = request(records, 100 + number, body=str(number))
        job = create(records, first)
        lost(records, first)
        a, b = (request(records, base + number, body=str(number)) for base in (200, 300))
        joined = race(partial(join, records, a), partial(join, records, b))
        assert [each for each in joined if each is not None] == [job.id]
