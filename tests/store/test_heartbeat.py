"""A worker's heartbeat, which goes on whatever else the worker does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from threading import enumerate as enumerate_threads

import pytest
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from jobs.cancel_reason import AbortReason
from jobs.clock import elapsed
from jobs.notifications import Notifier
from jobs.redis_url import connect
from jobs.store import schema
from jobs.store.database import Database
from tests.support.names import NAMES, get_names
from tests.support.records import an_attempt
from tests.support.waiting import await_until
from worker.heartbeat import Heartbeat
from worker.in_flight import InFlightCalls
from worker.provider.call_handle import CallHandle
from worker.registration import WorkerRegistration

RUBBISH = {
    "not UTF-8": b"\xff\xfe",
    "empty": b"",
    "one word": b"resp_1",
    "no number": b"resp_1 x cancelled",
    "another script's digits": "resp_1 \N{ARABIC-INDIC DIGIT ONE} cancelled".encode(),
    "a negative attempt": b"resp_1 -1 cancelled",
    "an attempt that never was": b"resp_1 9999999 cancelled",
    "an attempt of 5,000 digits": b"resp_1 " + b"9" * 5000 + b" cancelled",
    "an unknown reason": b"resp_1 1 because",
    "a reason of the worker's own": b"resp_1 1 call_deadline",
    "more words": b"resp_1 1 cancelled now",
    "2 MB": b"resp_1 1 cancelled" * 100_000,
}


def heartbeat_at(database: Database) -> datetime:
    with database.read() as tx:
        moment: datetime = tx.execute(select(schema.workers.c.heartbeat_at)).scalar_one()
    return moment


@contextmanager
def running_heartbeat(
    database: Database, valkey_url: str, rescue: Callable[..., int] = lambda *_: 0, calls: InFlightCalls | None = None
) -> Iterator[None]:
    client = connect(valkey_url)
    held = calls or InFlightCalls(on_end=lambda: None)
    heartbeat = Heartbeat(database, WorkerRegistration(database, 1), held, client, NAMES.stop, rescue)
    heartbeat.start()
    try:
        yield
    finally:
        heartbeat.stop()
        await_until(lambda: not any("_listen" in each.name for each in enumerate_threads()), 10, "it still listens")
        client.close()


@pytest.mark.one_database
def test_a_long_rescue_of_orphans_does_not_stop_the_heartbeat(database: Database, valkey_url: str) -> None:
    rescuing, rescued = Event(), Event()

    def rescue_orphans(*_: object) -> int:
        rescuing.set()
        rescued.wait(30)
        return 0

    with running_heartbeat(database, valkey_url, rescue_orphans):
        try:
            assert rescuing.wait(20)
            before = heartbeat_at(database)
            await_until(lambda: heartbeat_at(database) > before, 10, "no heartbeat while it rescued")
            assert not rescued.is_set()
        finally:
            rescued.set()


def test_rubbish_on_the_stop_channel_ends_no_call_and_a_cancellation_is_still_received(
    database: Database, valkey_url: str
) -> None:
    calls = InFlightCalls(on_end=lambda: None)
    spared, ended = CallHandle(), CallHandle()
    calls.begin(an_attempt("resp_1", 1), spared, timedelta(minutes=1))
    calls.begin(an_attempt("resp_2", 1), ended, timedelta(minutes=1))
    client = connect(valkey_url)
    with client, running_heartbeat(database, valkey_url, calls=calls):
        await_until(lambda: dict(client.pubsub_numsub(NAMES.stop))[NAMES.stop.encode()], 10, "it does not listen")
        for name, rubbish in RUBBISH.items():
            assert client.publish(NAMES.stop, rubbish) == 1, f"it no longer listens before: {name}"
        Notifier(client, get_names).stop("resp_2", 1, AbortReason.CANCELLED)
        await_until(lambda: ended.aborted is AbortReason.CANCELLED, 1, "it did not receive the cancellation")
    assert spared.aborted is None


@pytest.mark.one_database
@pytest.mark.parametrize("hours", [1, -1])
def test_after_a_step_of_the_databases_clock_a_worker_marks_none_dead_for_a_timeout(
    hours: int, database: Database
) -> None:
    registration = WorkerRegistration(database, 1)
    registration.send_heartbeat()
    assert registration.is_steady(timedelta(0))
    database.clock.learn(database.clock() + timedelta(hours=hours), elapsed())
    assert not registration.is_steady(timedelta(seconds=60))
    assert registration.is_steady(timedelta(0))


@pytest.mark.one_database
def test_after_a_failed_heartbeat_a_worker_marks_none_dead_for_a_timeout(database: Database, tmp_path: Path) -> None:
    registration = WorkerRegistration(database, 1)
    registration.send_heartbeat()
    assert registration.is_steady(timedelta(0))
    registration.database = Database(f"sqlite:///{tmp_path}/nowhere/backburner.db")
    with pytest.raises(SQLAlchemyError):
        registration.send_heartbeat()
    assert not registration.is_steady(timedelta(0))
    registration.database = database
    registration.send_heartbeat()
    assert registration.is_steady(timedelta(0))
    assert not registration.is_steady(timedelta(seconds=60))
