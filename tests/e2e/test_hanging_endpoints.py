"""Many endpoints of one key hang: another key's webhooks arrive as usual."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from jobs.encryption import generate_key
from jobs.store import schema
from jobs.store.api_keys import create_key
from jobs.store.database import Database
from tests.support.hanging import Hanging
from tests.support.stack import API_KEY, MODEL, Stack
from tests.support.waiting import await_until
from tests.support.webhook_endpoint import Destination

pytestmark = [pytest.mark.one_database, pytest.mark.long]

SLOTS = 40
SETTINGS = {
    "BACKBURNER_WEBHOOK_ALLOW_HTTP": "true",
    "BACKBURNER_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
    "BACKBURNER_WEBHOOK_CONCURRENCY": str(SLOTS),
}


@pytest.fixture
def stack(database_url: str, valkey_url: str, tmp_path: Path) -> Iterator[Stack]:
    environment = {**SETTINGS, "BACKBURNER_ENCRYPTION_KEYS": generate_key()}
    with Stack(database_url, valkey_url, tmp_path, environment) as stack:
        yield stack


def end_one(http: httpx.Client, receiver: str) -> None:
    """Cancel a response that would run tomorrow."""
    body = {"model": MODEL, "input": "x", "background": True, "webhook": {"url": receiver}}
    body |= {"run_at": int(time.time()) + 86_400, "deadline_seconds": 2 * 86_400}
    made = http.post("/responses", json=body).raise_for_status().json()["id"]
    http.post(f"/responses/{made}/cancel").raise_for_status()


def test_many_hanging_receivers_of_one_key_do_not_delay_anothers_webhooks(stack: Stack) -> None:
    """Hanging endpoints hold three quarters of the slots at most; with all slots this took 20 s for each 40 hosts."""
    database = Database(stack.database_url, pool_size=2)
    with database.begin() as tx:
        _, secret = create_key(tx, "other", None, datetime.now(UTC))

    def client(key: str) -> httpx.Client:
        return httpx.Client(base_url=stack.base_url, headers={"authorization": f"Bearer {key}"}, timeout=60)

    with Hanging() as hanging, Destination() as receiver, client(API_KEY) as greedy, client(secret) as other:
        for url in hanging.urls(4 * SLOTS):
            end_one(greedy, url)
        await_until(lambda: len(hanging.held) >= SLOTS * 3 // 4, 20, stack.logs)
        for number in range(1, 11):
            end_one(other, receiver.url)
            receiver.await_count(number)
        row = schema.webhook_events.c
        with database.read() as tx:
            ended_at = {each.id: each.created_at.timestamp() for each in tx.execute(select(row.id, row.created_at))}
        late = [each.at - ended_at[json.loads(each.body)["id"]] for each in receiver.delivered]
        assert max(late) < 5, sorted(late)
    database.close()
