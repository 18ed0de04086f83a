"""Signatures of deliveries, checked by the SDK and by the reference implementation of Standard Webhooks."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks
from openai import InvalidWebhookSignatureError, OpenAI

from jobs.lifecycle import TERMINAL, Status
from jobs.store.database import Database
from jobs.store.webhooks import endpoints as store
from jobs.webhooks.protocol import (
    new_secret,
)
from tests.support.clock import Clock
from tests.support.records import Records
from tests.support.webhook_endpoint import Answer, Destination
from tests.webhooks.world import SECRET, World

OTHER_SECRET = new_secret(b"o" * 32)
BROKEN = Answer(500)
DAY = timedelta(days=1)


@pytest.fixture
def destination() -> Iterator[Destination]:
    with Destination() as destination:
        yield destination


class OnSqlite:
    """Base of tests that need only one database."""

    @pytest.fixture
    def database(self, sqlite_url: str) -> Iterator[Database]:
        opened = Database(sqlite_url)
        yield opened
        opened.close()


class TestSignatures(OnSqlite):
    @pytest.fixture
    def now_world(self, database: Database) -> World:
        """Return a world at the real time, as a receiving library refuses events older than five minutes."""
        return World(Records(database, Clock(datetime.now(UTC))))

    @pytest.mark.parametrize("status", sorted(TERMINAL))
    def test_both_libraries_accept_every_event(
        self, now_world: World, destination: Destination, status: Status
    ) -> None:
        now_world.endpoint(destination.url)
        job = now_world.end_a_job(status)
        assert now_world.deliver_due() == 1
        [delivered] = destination.delivered
        event = OpenAI(api_key="none").webhooks.unwrap(delivered.body, dict(delivered.headers), secret=SECRET)
        assert (event.type, event.object) == (f"response.{status}", "event")
        assert event.id == delivered.id
        assert event.data.id == job.id  # type: ignore[union-attr]  # the union has events of other kinds
        assert type(event).__name__ == f"Response{status.capitalize()}WebhookEvent"
        assert standardwebhooks.Webhook(SECRET).verify(delivered.body, dict(delivered.headers)) == json.loads(
            delivered.body
        )
        assert delivered.headers["content-type"] == "application/json"
        assert delivered.headers["user-agent"].startswith("Backburner/")

    def test_a_tampered_byte_another_secret_and_an_old_timestamp_are_refused(
        self, now_world: World, destination: Destination
    ) -> None:
        now_world.endpoint(destination.url)
        now_world.end_a_job()
        now_world.deliver_due()
        [delivered] = destination.delivered
        unwrap = OpenAI(api_key="none").webhooks.unwrap
        headers = dict(delivered.headers)
        tampered = delivered.body[:-3] + bytes([delivered.body[-3] ^ 1]) + delivered.body[-2:]
        later = headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}
        for body, fields, secret in (
            (tampered, headers, SECRET),
            (delivered.body, headers, OTHER_SECRET),
            (delivered.body, later, SECRET),
        ):
            with pytest.raises(InvalidWebhookSignatureError):
                unwrap(body, fields, secret=secret)
            with pytest.raises(standardwebhooks.WebhookVerificationError):
                standardwebhooks.Webhook(secret).verify(body, fields)

    def test_an_event_that_is_replayed_later_is_refused(self, database: Database, destination: Destination) -> None:
        world = World(Records(database, Clock(datetime.now(UTC) - timedelta(minutes=6))))
        world.endpoint(destination.url)
        world.end_a_job()
        world.deliver_due()
        [delivered] = destination.delivered
        with pytest.raises(InvalidWebhookSignatureError, match="too old"):
            OpenAI(api_key="none").webhooks.unwrap(delivered.body, dict(delivered.headers), secret=SECRET)

    def test_there_are_two_signatures_while_the_old_secret_is_valid(
        self, now_world: World, destination: Destination
    ) -> None:
        endpoint = now_world.endpoint(destination.url)
        fresh = store.EncryptedSecret(now_world.cipher.encrypt(OTHER_SECRET), "hint")
        with now_world.database.begin() as tx:
            store.rotate_secret(tx, endpoint, fresh, now_world.clock(), keep_old=True)
        now_world.end_a_job()
        now_world.deliver_due()
        [delivered] = destination.delivered
        for secret in (SECRET, OTHER_SECRET):
            OpenAI(api_key="none").webhooks.unwrap(delivered.body, dict(delivered.headers), secret=secret)
        now_world.clock.advance(DAY + timedelta(seconds=1))
        now_world.end_a_job()
        now_world.deliver_due()
        assert len(destination.delivered[-1].headers["webhook-signature"].split()) == 1
