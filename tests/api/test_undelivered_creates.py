"""What an API process writes down of its answers is written, even if the database is away for a while."""

import migrations
from api.sdk_retry.tracker import UndeliveredTracker
from jobs.store import schema
from jobs.store.database import Database
from tests.support.waiting import await_until


def test_what_cannot_be_written_now_is_written_later(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    undelivered = UndeliveredTracker(database)
    undelivered.start()
    undelivered.lost("req_1")
    assert undelivered.is_lost("req_1")
    migrations.upgrade(empty_database_url)
    await_until(lambda: not undelivered.is_lost("req_1"), 10, "it was never written")
    with database.read() as tx:
        assert tx.execute(schema.api_processes.select()).scalars().all() == [undelivered.process_id]
    undelivered.stop()
    with database.read() as tx:
        assert tx.execute(schema.api_processes.select()).all() == []
    database.close()
