"""A connection to Redis that a NAT has forgotten: neither side knows, and nothing arrives any more."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jobs.celery_app import configure_queues, create_celery
from jobs.settings import load_settings
from tests.chaos.proxy import Proxy
from tests.support.names import NAMES, NAMESPACE
from tests.support.server import HOST
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = [pytest.mark.one_database, pytest.mark.long]

PICK_UP_SECONDS = 10
"""5 s, and as much again for a busy machine; it used to take 26 s."""


@pytest.fixture
def relay(valkey: ValkeyServer) -> Iterator[Proxy]:
    with Proxy("broker", valkey.port) as proxy:
        yield proxy


def test_jobs_are_taken_again_within_seconds_and_pings_are_answered(
    valkey: ValkeyServer, relay: Proxy, tmp_path: Path
) -> None:
    environment = {"BACKBURNER_NAMESPACE": NAMESPACE}
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path, environment, workers=0) as stack:
        stack.environment["BACKBURNER_REDIS_URL"] = f"redis://{HOST}:{relay.port}/0"
        stack.start_worker()
        await_until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 200, 30, stack.logs)
        stack.await_all([stack.submit("[[sim: full delay=0]] Hello")], "completed", 20)
        relay.silence()
        began = time.monotonic()
        stack.await_all([stack.submit("[[sim: full delay=0]] Hello")], "completed", 60)
        assert time.monotonic() - began < PICK_UP_SECONDS
        app = create_celery(load_settings(redis_url=valkey.url))
        configure_queues(app, NAMES)
        await_until(lambda: app.control.inspect(timeout=1).ping(), 20, stack.logs)
        app.close()
