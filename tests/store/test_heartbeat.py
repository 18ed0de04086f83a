"""A worker's pulse on both databases: whatever else it does, it is heard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import Event
from threading import enumerate as enumerate_threads

from sqlalchemy import select

from jobs.events import connect
from jobs.store import tables
from jobs.store.database import Database
from tests.support.waiting import await_until
from worker.calls import Calls
from worker.heartbeat import Heartbeat
from worker.identity import Identity


def beat_at(database: Database) -> datetime:
    with database.read() as tx:
        moment: datetime = tx.execute(select(tables.workers.c.beat_at)).scalar_one()
    return moment


@contextmanager
def beating(database: Database, valkey_url: str, rescue: Callable[..., int]) -> Iterator[None]:
    client = connect(valkey_url)
    heartbeat = Heartbeat(database, Identity(database, 1), Calls(on_end=lambda: None), client, rescue)
    heartbeat.start()
    try:
        yield
    finally:
        heartbeat.stop()
        await_until(lambda: not any("_listen" in each.name for each in enumerate_threads()), 10, "it still listens")
        client.close()


def test_a_long_look_at_its_calls_does_not_make_a_worker_silent(database: Database, valkey_url: str) -> None:
    looking, looked = Event(), Event()

    def look(*_: object) -> int:
        looking.set()
        looked.wait(30)
        return 0

    with beating(database, valkey_url, look):
        try:
            assert looking.wait(20)
            before = beat_at(database)
            await_until(lambda: beat_at(database) > before, 10, "not heard while it looked")
            assert not looked.is_set()
        finally:
            looked.set()
