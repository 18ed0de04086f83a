"""The tracker writes its records even if the database was unavailable for a while."""

import migrations
from api.sdk_retry.tracker import UndeliveredTracker
from jobs.store import schema
from jobs.store.database import Database
from tests.support.waiting import await_until


def test_an_undelivered_create_that_could_not_be_written_is_written_later(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    tracker = UndeliveredTracker(database)
    tracker.start()
    tracker.lost("req_1")
    assert tracker.is_lost("req_1")
    migrations.upgrade(empty_database_url)
    await_until(lambda: not tracker.is_lost("req_1"), 10, "it was never written")
    with database.read() as tx:
        assert tx.execute(schema.api_processes.select()).scalars().all() == [tracker.process_id]
    tracker.stop()
    with database.read() as tx:
        assert tx.execute(schema.api_processes.select()).all() == []
    database.close()
