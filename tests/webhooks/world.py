"""The world of the webhook tests: endpoints, jobs that end, and a sender run by hand at the clock's time."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy import select

from jobs.encryption import Cipher, generate_key
from jobs.job import Job
from jobs.lifecycle import Status
from jobs.notifications import Notifier
from jobs.redis_url import connect
from jobs.store import schema
from jobs.store.api_keys import ApiKey
from jobs.store.webhooks import delivery_log
from jobs.store.webhooks import endpoints as store
from jobs.store.webhooks.delivery_log import Delivery
from jobs.store.webhooks.endpoints import EncryptedSecret, Endpoint
from jobs.store.webhooks.scheduler import pick_due_deliveries
from jobs.webhooks.protocol import EventType, new_secret
from tests.support.names import get_names
from tests.support.records import Records
from tests.webhooks.posting import poster
from worker.registration import WorkerRegistration
from worker.webhooks.sender import Post, WebhookSender

NOWHERE = "redis://127.0.0.1:1/0"
SECRET = new_secret(b"k" * 32)


@dataclass
class World:
    records: Records
    post: Post = field(default_factory=lambda: poster(seconds=1.0))
    cipher: Cipher = field(default_factory=lambda: Cipher([SecretStr(generate_key())]))
    jitter: float = 0.0
    slots: int = 10

    def __post_init__(self) -> None:
        self.database, self.clock = self.records.database, self.records.clock
        self.sender = WebhookSender(
            self.database,
            self.post,
            self.cipher,
            registration=WorkerRegistration(self.database, 10, self.records.worker_id),
            notifier=Notifier(connect(NOWHERE), get_names),
            slots=self.slots,
            clock=self.clock,
            jitter=lambda: self.jitter,
        )

    def endpoint(
        self, url: str, events: Iterable[EventType] = EventType, key: ApiKey | None = None, secret: str = SECRET
    ) -> Endpoint:
        owner = key or self.records.key
        with self.database.begin() as tx:
            return store.create_endpoint(
                tx,
                owner.id,
                name="hook",
                url=url,
                target=f"{owner.id} {url}",
                event_types=list(events),
                secret=EncryptedSecret(self.cipher.encrypt(secret), "hint"),
                now=self.clock(),
            )

    def reload(self, endpoint: Endpoint) -> Endpoint:
        with self.database.read() as tx:
            return store.get_endpoint(tx, endpoint.id, endpoint.api_key_id)

    def end_a_job(self, status: Status = Status.COMPLETED, **changes: Any) -> Job:
        return self.records.job_in(status, **{"deadline_at": self.clock() + timedelta(days=1), **changes})

    def log(self, endpoint: Endpoint) -> list[Delivery]:
        with self.database.read() as tx:
            return delivery_log.list_deliveries(tx, endpoint, limit=100)[0]

    def due(self) -> list[str]:
        now = self.clock()
        with self.database.begin() as tx:
            return pick_due_deliveries(tx, now, 100, now + timedelta(seconds=1))

    def deliver_due(self) -> int:
        due = self.due()
        for delivery_id in due:
            self.sender.run(delivery_id)
        return len(due)

    def run_until(self, moment: datetime) -> None:
        """Advance the clock from one due delivery to the next, and deliver each."""
        row = schema.webhook_deliveries.c
        while True:
            with self.database.read() as tx:
                following = tx.execute(select(row.available_at).where(schema.IS_PENDING).order_by(row.available_at))
                next_at = following.scalars().first()
            if next_at is None or next_at > moment:
                break
            self.clock.advance(max(next_at - self.clock(), timedelta(0)))
            self.deliver_due()
        self.clock.advance(max(moment - self.clock(), timedelta(0)))

    def run_for(self, span: timedelta) -> None:
        self.run_until(self.clock() + span)
