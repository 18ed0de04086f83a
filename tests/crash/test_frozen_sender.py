"""A worker is paused during a delivery, marked dead, and resumed after another worker has delivered the event."""

import signal
import threading
from pathlib import Path

import pytest

from jobs.encryption import generate_key
from tests.crash.delivering import SETTINGS
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until
from tests.support.webhook_endpoint import OK, Answer, Delivered, Destination

pytestmark = pytest.mark.long


def test_an_event_that_came_twice_has_a_lost_attempt_that_explains_it(
    database_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    thawed = threading.Event()

    def answer(delivered: Delivered) -> Answer:
        if delivered is destination.delivered[0]:
            thawed.wait(60)
        return OK

    environment = {**SETTINGS, "BACKBURNER_ENCRYPTION_KEYS": generate_key()}
    with (
        Stack(database_url, valkey.url, tmp_path, environment) as stack,
        Destination(answer) as destination,
        stack.http() as http,
    ):
        hook = {"name": "hook", "url": destination.url, "event_types": ["response.completed"]}
        endpoint_id = http.post("/webhook_endpoints", json=hook).raise_for_status().json()["id"]

        def delivery() -> tuple[str, list[tuple[str | None, int | None]]]:
            [shown] = http.get(f"/webhook_endpoints/{endpoint_id}/deliveries").raise_for_status().json()["data"]
            return shown["status"], [(each["error"], each["status_code"]) for each in shown["attempts"]]

        stack.submit("Hello")
        destination.await_count(1)
        frozen = stack.worker_processes[0]
        frozen.signal(signal.SIGSTOP)
        stack.start_worker()
        destination.await_count(2)
        await_until(lambda: delivery()[0] == "delivered", 20, stack.logs)
        assert delivery()[1] == [("lost", None), (None, 200)]
        thawed.set()
        frozen.signal(signal.SIGCONT)
        frozen.match("delivery belongs to another worker")
        assert delivery() == ("delivered", [("lost", 200), (None, 200)])
