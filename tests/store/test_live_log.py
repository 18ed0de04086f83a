"""Live output on both databases is committed together, in order, while the attempt holds its job."""

import threading
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from jobs.event_stream import LIVE_FROM
from jobs.job import Attempt, Job
from jobs.lifecycle import Verb
from jobs.store import schema
from jobs.store.database import Database
from jobs.store.stream_events import last_chunk, read_log
from tests.support.clock import Clock
from tests.support.records import Records
from tests.support.waiting import await_until
from worker import live_stream
from worker.live_stream import LiveLog, LiveOutput, keep_rest


class Received:
    """A notifier that records what is published."""

    def __init__(self) -> None:
        self.wrote_for: list[str] = []

    def wrote(self, *job_ids: str) -> None:
        self.wrote_for += job_ids


@pytest.fixture
def on_events() -> Received:
    return Received()


@pytest.fixture
def live_log(database: Database, on_events: Received) -> LiveLog:
    notifier: Any = on_events
    return LiveLog(database, notifier)


def say(output: LiveOutput, *names: str) -> None:
    for place, name in enumerate(names):
        item = {"id": name, "type": "message", "content": []}
        output.record([{"type": "response.output_item.added", "output_index": place, "item": item}])


def logged(database: Database, job: Job, number: int = 0) -> list[str]:
    """Return the added items in the order of the log, which has no gap."""
    with database.read() as tx:
        chunks = read_log(tx, job.id, job.api_key_id, number, 100).chunks
    assert [each.number for each in chunks[1:]] == [each.next_number for each in chunks[:-1]]
    return [event["item"]["id"] for chunk in chunks for event in chunk.events if event["type"].endswith("added")]


def test_events_of_all_streams_are_committed_and_then_published(
    database: Database, records: Records, live_log: LiveLog, on_events: Received
) -> None:
    running = [records.claim(records.submit_job()) for _ in range(3)]
    outputs = [live_log.open(attempt) for _, attempt in running]
    on_events.wrote_for.clear()
    assert live_log.flush() is False
    for output in outputs[:2]:
        say(output, "a", "b")
    assert live_log.flush() is False
    assert sorted(on_events.wrote_for) == sorted(job.id for job, _ in running[:2])
    say(outputs[0], "a", "b", "c")
    live_log.flush()
    assert [logged(database, job) for job, _ in running] == [["a", "b", "c"], ["a", "b"], []]
    assert logged(database, running[0][0], LIVE_FROM + 2) == ["c"]


def test_the_loop_writes_soon_and_survives_a_failure(
    database: Database,
    records: Records,
    live_log: LiveLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_stream, "FLUSH_AGAIN_SECONDS", 0.05)
    job, attempt = records.claim(records.submit_job())
    output = live_log.open(attempt)
    with database.begin() as tx:
        schema.stream_events.drop(tx)  # makes the database fail
    failed = threading.Event()
    flush = live_log.flush

    def watched() -> bool:
        try:
            return flush()
        except SQLAlchemyError:
            failed.set()
            raise

    monkeypatch.setattr(live_log, "flush", watched)
    live_log.start()
    try:
        say(output, "a")
        assert failed.wait(10)
        with database.begin() as tx:
            schema.stream_events.create(tx)
        await_until(lambda: logged(database, job) == ["a"], 10, "it was never written")
    finally:
        live_log.stop()


def test_a_locked_job_is_left_for_later(database: Database, records: Records, live_log: LiveLog) -> None:
    if database.is_sqlite:
        pytest.skip("it has one writer at a time")
    (first, a), (second, b) = (records.claim(records.submit_job()) for _ in range(2))
    outputs = [live_log.open(each) for each in (a, b)]
    for output in outputs:
        say(output, "a")
    with database.begin() as tx:
        tx.execute(select(schema.jobs.c.id).where(schema.jobs.c.id == first.id).with_for_update())
        assert live_log.flush() is True
        assert (logged(database, first), logged(database, second)) == ([], ["a"])
    assert live_log.flush() is False
    assert logged(database, first) == ["a"]


@pytest.mark.parametrize("how", ["ended", "taken over"])
def test_an_attempt_that_lost_its_job_writes_nothing(
    database: Database, records: Records, live_log: LiveLog, clock: Clock, how: str
) -> None:
    job, attempt = records.claim(records.submit_job())
    output = live_log.open(attempt)
    say(output, "a")
    live_log.flush()
    if how == "ended":
        records.move(Verb.CANCEL, job)
    else:
        queued = records.move(Verb.RESCUE, job, available_at=clock())
        records.claim(queued)
    say(output, "a", "b")
    assert [live_log.flush() for _ in range(live_stream.MISSES)] == [True] * (live_stream.MISSES - 1) + [False]
    say(output, "a", "b", "c")
    assert live_log.flush() is False
    assert logged(database, job) == ["a"]
    emitted = live_log.close(attempt)
    assert emitted is output
    with database.begin() as tx:
        keep_rest(tx, [emitted])
    assert logged(database, job) == ["a"]


def test_remaining_events_are_written_with_the_answer(database: Database, records: Records, live_log: LiveLog) -> None:
    job, attempt = records.claim(records.submit_job())
    output = live_log.open(attempt)
    say(output, "a")
    live_log.flush()
    say(output, "a", "b")
    closed = live_log.close(attempt)
    assert closed is not None
    live_log.flush()
    assert logged(database, job) == ["a"]
    for _ in range(2):  # a commit whose confirmation is lost is repeated
        with database.begin() as tx:
            keep_rest(tx, [closed])
    assert logged(database, job) == ["a", "b"]


def test_the_next_attempt_continues_after_the_last_event(
    database: Database, records: Records, live_log: LiveLog, clock: Clock
) -> None:
    job, attempt = records.claim(records.submit_job())
    say(live_log.open(attempt), "a")
    live_log.flush()
    again: Attempt
    job, again = records.claim(records.move(Verb.RESCHEDULE, job, available_at=clock()))
    say(live_log.open(again), "b")
    live_log.flush()
    with database.read() as tx:
        last = last_chunk(tx, job.id)
    assert last is not None
    assert (last.attempt, last.number) == (2, LIVE_FROM + 1)
    assert [each["type"] for each in last.events] == ["response.output_item.done", "response.output_item.added"]
    assert [each.opened is None for each in last.progress.items] == [True, False]
