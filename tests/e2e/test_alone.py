"""A worker counts as live from its first heartbeat, so from then on it must take messages and not wait for others."""

from pathlib import Path

from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer

TALK = b"*.pidbox"
"""The channel on which Celery's workers question each other."""


def test_a_worker_asks_no_other_before_it_takes_messages(sqlite_url: str, valkey: ValkeyServer, tmp_path: Path) -> None:
    """A worker used to wait a second for their answers, after every start and every loss of its broker."""
    with valkey.client() as client, client.pubsub() as talk:
        talk.psubscribe(TALK)
        assert talk.get_message(timeout=5) is not None  # that it listens
        with Stack(sqlite_url, valkey.url, tmp_path) as stack:
            job_id = stack.submit("[[sim: full delay=0]] Hello")
            stack.await_all([job_id], "completed", 20)
        assert talk.get_message(timeout=0) is None
