"""Creates whose answer was not written: only a lost one is joined, once, for a quarter of an hour."""

from datetime import datetime, timedelta
from functools import partial

import pytest

from jobs.job import Job
from jobs.lifecycle import Verb
from jobs.store import schema
from jobs.store.database import Database
from jobs.store.jobs import erase
from jobs.store.undelivered_creates import (
    Process,
    Sender,
    UndeliveredCreate,
    announce_submit,
    heartbeat_process,
    insert_undelivered_creates,
    leave_process,
    note_answered,
    note_lost,
    prune_undelivered_creates,
    submits_under_way,
    take,
    undelivered_creates_of,
)
from tests.support.racing import race
from tests.support.records import Records, make_key, make_spec, rows_of, submit_one

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
ROUNDS = 20


def sender(records: Records, number: int = 1, *, body: str = "equal", process: str = "") -> Sender:
    return Sender(records.key.id, body, f"req_{number}", process or f"api_{number}")


def a_process(process_id: str) -> Process:
    return Process(process_id, "host", 4711, 0.0)


def create(records: Records, by: Sender) -> Job:
    with records.database.begin() as tx:
        heartbeat_process(tx, a_process(by.process_id), records.clock())
        job = submit_one(tx, make_spec(records.key.id), records.clock())
        insert_undelivered_creates(tx, [(by, job)], records.clock())
    return job


def lost(records: Records, by: Sender) -> None:
    with records.database.begin() as tx:
        note_lost(tx, [by.request_id], records.clock())


def marks(records: Records, by: Sender, asked_at: datetime | None = None) -> list[UndeliveredCreate]:
    with records.database.read() as tx:
        return undelivered_creates_of(tx, by, asked_at or records.clock(), records.clock())


def joinable(records: Records, by: Sender, asked_at: datetime | None = None) -> list[str]:
    return [mark.job_id for mark in marks(records, by, asked_at) if mark.lost]


def join(records: Records, by: Sender) -> str | None:
    with records.database.begin() as tx:
        for mark in undelivered_creates_of(tx, by, records.clock(), records.clock()):
            if mark.lost and take(tx, mark, by, records.clock()):
                return mark.job_id
    return None


def test_while_somebody_waits_for_it_nobody_else_has_it(records: Records) -> None:
    job = create(records, sender(records))
    assert [(mark.job_id, mark.lost) for mark in marks(records, sender(records, 2))] == [(job.id, False)]
    assert join(records, sender(records, 2)) is None


def test_who_is_about_to_be_accepted_is_seen_until_the_commit(records: Records, database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("there is one writer at a time, and whoever asks is that one")
    first, other = sender(records, 1), sender(records, 2, body="other")
    with database.begin() as tx:
        announce_submit(tx, [first, first])
        with database.read() as elsewhere:
            assert len(submits_under_way(elsewhere, first)) == 1
            assert not submits_under_way(elsewhere, other)
            with database.begin() as another:
                announce_submit(another, [other, first])  # they do not wait for one another
                assert len(submits_under_way(elsewhere, first)) == 2
    with database.read() as tx:
        assert not submits_under_way(tx, first)


def test_a_lost_one_is_joined_once(records: Records) -> None:
    first = create(records, sender(records, 1))
    records.clock.advance(SECOND)
    second = create(records, sender(records, 2))
    lost(records, sender(records, 1))
    records.clock.advance(SECOND)
    lost(records, sender(records, 2))
    assert [join(records, sender(records, number)) for number in (3, 4, 5)] == [first.id, second.id, None]


def test_one_that_joined_may_be_lost_in_turn(records: Records) -> None:
    job = create(records, sender(records, 1))
    lost(records, sender(records, 1))
    assert join(records, sender(records, 2)) == job.id
    lost(records, sender(records, 1))  # the first one's news comes late, and is no longer about this job
    assert joinable(records, sender(records, 3)) == []
    lost(records, sender(records, 2))
    assert join(records, sender(records, 3)) == job.id


def test_an_answered_one_is_nobodys(records: Records, database: Database) -> None:
    job = create(records, sender(records))
    with database.begin() as tx:
        note_answered(tx, ["req_1", "req_other"])
    assert not rows_of(database, schema.undelivered_creates, job)


def test_other_bodies_and_keys_are_others(records: Records, database: Database) -> None:
    create(records, sender(records))
    lost(records, sender(records))
    assert joinable(records, sender(records, 2, body="another")) == []
    assert joinable(records, Sender(make_key(database).id, "equal", "req_2", "api_1")) == []


def test_what_a_killed_process_held_is_lost_once_it_stays_silent(records: Records) -> None:
    job = create(records, sender(records, process="api_killed"))
    asked_at = records.clock.advance(MINUTE)  # before, the database may have been away
    assert joinable(records, sender(records, 2), asked_at) == []
    records.clock.advance(4 * SECOND)
    assert joinable(records, sender(records, 2), asked_at) == []
    records.clock.advance(SECOND)
    assert joinable(records, sender(records, 2), asked_at) == [job.id]


def test_the_process_that_asks_lives(records: Records) -> None:
    create(records, sender(records))
    asked_at = records.clock.advance(MINUTE)
    records.clock.advance(MINUTE)
    assert joinable(records, sender(records, 2, process="api_1"), asked_at) == []


def test_whoever_is_heard_while_we_ask_is_not_silent(records: Records, database: Database) -> None:
    create(records, sender(records))
    asked_at = records.clock.advance(MINUTE)
    records.clock.advance(SECOND)
    with database.begin() as tx:
        heartbeat_process(tx, a_process("api_1"), records.clock())
    records.clock.advance(5 * SECOND)
    assert joinable(records, sender(records, 2), asked_at) == []


def test_what_a_process_leaves_unanswered_is_lost_at_once(records: Records, database: Database) -> None:
    job = create(records, sender(records))
    records.clock.advance(60 * MINUTE)
    with database.begin() as tx:
        leave_process(tx, "api_1", records.clock())
    assert joinable(records, sender(records, 2)) == [job.id]


def test_a_process_that_never_beat_has_a_moment_to(records: Records, database: Database) -> None:
    with database.begin() as tx:
        job = submit_one(tx, make_spec(records.key.id), records.clock())
        insert_undelivered_creates(tx, [(sender(records, process="api_new"), job)], records.clock())
    assert joinable(records, sender(records, 2)) == []


def test_after_a_quarter_of_an_hour_it_is_too_late(records: Records, database: Database) -> None:
    job = create(records, sender(records))
    lost(records, sender(records))
    silent = create(records, sender(records, 2, process="api_killed"))
    records.clock.advance(15 * MINUTE - SECOND)
    asked_at = records.clock() - 5 * SECOND
    assert set(joinable(records, sender(records, 3), asked_at)) == {job.id, silent.id}
    records.clock.advance(SECOND)
    assert joinable(records, sender(records, 3), asked_at) == []
    records.clock.advance(SECOND)
    with database.begin() as tx:
        prune_undelivered_creates(tx, records.clock())
        assert tx.execute(schema.undelivered_creates.select()).all() == []
        assert tx.execute(schema.api_processes.select()).all() == []


def test_what_is_held_for_hours_is_not_forgotten(records: Records, database: Database) -> None:
    job = create(records, sender(records))
    records.clock.advance(120 * MINUTE)
    with database.begin() as tx:
        heartbeat_process(tx, a_process("api_1"), records.clock())
        prune_undelivered_creates(tx, records.clock())
    lost(records, sender(records))
    assert join(records, sender(records, 2)) == job.id


def test_it_goes_with_the_response(records: Records, database: Database) -> None:
    job = create(records, sender(records))
    cancelled = records.move(Verb.CANCEL, job)
    with database.begin() as tx:
        erase(tx, cancelled)
    assert not rows_of(database, schema.undelivered_creates, job)


def test_of_two_at_once_one_has_it(records: Records) -> None:
    for number in range(ROUNDS):
        first = sender(records, 100 + number, body=str(number))
        job = create(records, first)
        lost(records, first)
        a, b = (sender(records, base + number, body=str(number)) for base in (200, 300))
        joined = race(partial(join, records, a), partial(join, records, b))
        assert [each for each in joined if each is not None] == [job.id]
