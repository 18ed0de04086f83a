"""Two installations on one Redis, not configured for each other: each takes only its own messages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from celery import Celery

from jobs.broker_names import Names
from jobs.celery_app import configure_queues, create_celery
from jobs.settings import load_settings
from jobs.store.database import Database
from jobs.store.installation import Installation
from jobs.task_queue import TaskQueue
from migrations import upgrade
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer

pytestmark = [pytest.mark.one_database, pytest.mark.long]

MESSAGES = 20


def names_of(database_url: str) -> Names:
    database = Database(database_url)
    names = Installation(database, None).names()
    database.close()
    return names


@contextmanager
def celery_of(valkey: ValkeyServer, names: Names) -> Iterator[Celery]:
    app = create_celery(load_settings(redis_url=valkey.url))
    configure_queues(app, names)
    yield app
    app.close()


def test_neither_takes_the_others_messages_nor_obeys_its_commands(valkey: ValkeyServer, tmp_path: Path) -> None:
    """They used to share one queue: a job waited for seconds, because its message went to the other installation."""
    (tmp_path / "other").mkdir()
    other_url = f"sqlite:///{tmp_path}/other/backburner.db"
    upgrade(other_url)
    other = names_of(other_url)
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path) as stack:
        ours = names_of(stack.database_url)
        assert ours.namespace != other.namespace
        with celery_of(valkey, other) as theirs, celery_of(valkey, ours) as mine:
            message = TaskQueue(theirs, lambda: other)
            assert message.enqueue([f"resp_{number}" for number in range(MESSAGES)]) == MESSAGES
            stack.await_all(stack.submit_many(MESSAGES, "[[sim: full delay=0]] Hello"), "completed", 30)
            assert message.depth() == MESSAGES
            assert not theirs.control.inspect(timeout=1).ping()
            assert len(mine.control.inspect(timeout=10, limit=1).ping() or {}) == 1
            theirs.control.shutdown()
            Celery("a stranger", broker=valkey.url, set_as_current=False).control.shutdown()
            stack.await_all(stack.submit_many(1, "[[sim: full delay=0]] Hello"), "completed", 30)
            message.close()
        assert stack.worker_processes[0].popen.poll() is None
        with valkey.client() as client:
            shared = [key for key in client.keys("*") if b"backburner" in key and not key.startswith(b"_kombu.")]
        assert all(key.startswith((ours.namespace.encode(), other.namespace.encode())) for key in shared), shared
