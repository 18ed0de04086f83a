"""Deliveries of this worker process: claim, sign, send, record.

A bell is answered in a greenlet of its own, on slots of its own: a receiver that hangs holds neither Celery's pool nor
the slots of calls, and calls that take an hour hold up no delivery. No transaction is open while the network is.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from threading import Thread
from typing import Final, Protocol, TypeVar

from sqlalchemy import Connection

from jobs.events import Announcer
from jobs.sealing import Seal, SealBroken
from jobs.store.database import DATABASE_ERRORS, Database
from jobs.store.deliveries import Recorded, Sending, claim_delivery, receiver_of, record_try
from jobs.store.delivery_runlist import FIRST_AT_ONCE, MOST_PER_RECEIVER, due_of_receiver
from jobs.telemetry import get_logger
from jobs.webhook import DeliveryError, TryReport, signed_headers
from worker.identity import Identity
from worker.provider.line import AbortReason, Line
from worker.recording import record

REMEMBERED: Final = 10_000
ABANDONED: Final = frozenset({DeliveryError.TIMED_OUT, DeliveryError.UNREACHABLE, DeliveryError.NAME_UNRESOLVED})

T = TypeVar("T")

log = get_logger(__name__)


class Post(Protocol):
    """What sends a body and always comes back with a report."""

    def post(self, url: str, headers: Mapping[str, str], body: bytes, line: Line) -> TryReport:
        """One POST."""


class Widths:
    """How many deliveries may be out to each receiver at once, as this process has come to know it.

    A receiver begins with few and earns one more by each that it takes; one that does not answer is left with one. So
    many that hang cannot take all slots before anybody knows that they hang.
    """

    def __init__(self) -> None:
        self._out: Counter[str] = Counter()
        self._width: dict[str, int] = {}

    def take(self, receiver: str) -> bool:
        """Take one of a receiver's places, if there is one."""
        if self._out[receiver] >= self._width.get(receiver, FIRST_AT_ONCE):
            return False
        self._out[receiver] += 1
        return True

    def give_back(self, receiver: str) -> None:
        """Give a place back."""
        self._out[receiver] -= 1
        if not self._out[receiver]:
            del self._out[receiver]

    def learn(self, receiver: str, error: DeliveryError | None) -> None:
        """How a delivery went; None for well."""
        width = self._width.get(receiver, FIRST_AT_ONCE)
        if error is None:
            self._width[receiver] = min(width + 1, MOST_PER_RECEIVER)
        elif error in ABANDONED:
            self._width[receiver] = 1
        while len(self._width) > REMEMBERED:
            del self._width[next(iter(self._width))]


class WebhookSender:
    """Answers bells for deliveries, up to `slots` at once."""

    def __init__(
        self,
        database: Database,
        poster: Post,
        seal: Seal,
        *,
        identity: Identity,
        announcer: Announcer,
        slots: int,
        on_end: Callable[[], None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`on_end` is told whenever a slot has come free."""
        self._database = database
        self._poster = poster
        self._seal = seal
        self._identity = identity
        self._announcer = announcer
        self._slots = slots
        self._on_end = on_end
        self._clock = clock
        self._jitter = jitter
        self._widths = Widths()
        self._lines: set[Line] = set()
        self._busy = 0

    def __len__(self) -> int:
        return self._busy

    def answer(self, delivery_id: str) -> None:
        """Answer a bell without waiting for what comes of it.

        One for which there is no slot is dropped, and rung again.
        """
        if self._busy >= self._slots:
            return
        self._busy += 1
        Thread(target=self._run, args=(delivery_id,), daemon=True).start()

    def abort_all(self) -> None:
        """End every delivery; what is cut goes out again, under the same id."""
        for line in list(self._lines):
            line.abort(AbortReason.RELEASED)

    def _run(self, delivery_id: str) -> None:
        try:
            self.run(delivery_id)
        except Exception:  # a delivery ends here, whatever broke; its claim is taken back in time
            log.exception("delivery broke", delivery_id=delivery_id)
        finally:
            self._busy -= 1
            self._on_end()

    def run(self, delivery_id: str) -> None:
        """Answer a bell, and come back once the delivery is recorded. A stale bell changes nothing."""
        receiver = self._look(lambda tx: receiver_of(tx, delivery_id))
        if receiver is None or not self._widths.take(receiver):
            return
        try:
            following: str | None = delivery_id
            while following is not None and self._deliver(following, receiver):
                following = self._following(receiver)
        finally:
            self._widths.give_back(receiver)

    def _deliver(self, delivery_id: str, receiver: str) -> bool:
        """Whether to go on: the receiver took it, or another greenlet was quicker."""
        worker_id = self._identity.claiming_as
        if worker_id is None:
            return False
        try:
            with self._database.begin() as tx:
                sending = claim_delivery(tx, delivery_id, worker_id, self._clock())
        except DATABASE_ERRORS as error:
            log.warning("delivery not claimed", delivery_id=delivery_id, error=type(error).__name__)
            return False
        if sending is None:
            return True
        report = self._send(sending)
        self._widths.learn(receiver, report.error)
        self._record(sending, report)
        return report.error is None

    def _following(self, receiver: str) -> str | None:
        """Another due delivery for a receiver that works: it need not wait for its bell, while slots are not scarce.

        Any of the first few, as others look as well.
        """
        if self._busy > self._slots // 2:
            return None
        due = self._look(lambda tx: due_of_receiver(tx, receiver, self._clock(), MOST_PER_RECEIVER))
        return due[int(self._jitter() * len(due))] if due else None

    def _look(self, look: Callable[[Connection], T]) -> T | None:
        try:
            with self._database.read() as tx:
                return look(tx)
        except DATABASE_ERRORS as error:
            log.warning("deliveries not looked at", error=type(error).__name__)
            return None

    def _send(self, sending: Sending) -> TryReport:
        body = sending.payload.encode()
        try:
            secrets = [self._seal.open(secret) for secret in sending.secrets]
        except SealBroken as error:
            log.warning("delivery not signed", delivery_id=sending.id, reason=str(error))
            return TryReport(DeliveryError.SECRET_UNREADABLE)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"Backburner/{version('backburner')}",
            **signed_headers(secrets, sending.event_id, self._clock(), body),
        }
        line = Line()
        self._lines.add(line)
        try:
            return self._poster.post(sending.url, headers, body, line)
        finally:
            self._lines.discard(line)

    def _record(self, sending: Sending, report: TryReport) -> None:
        """Commit what came of it, however long the database is away: else it would go out again."""
        recorded = record(
            self._database,
            lambda tx: record_try(tx, sending, report, self._clock(), self._jitter()),
            delivery_id=sending.id,
        )
        self._tell(sending, report, recorded)

    def _tell(self, sending: Sending, report: TryReport, recorded: Recorded) -> None:
        facts = {"delivery_id": sending.id, "event_id": sending.event_id, "endpoint_id": sending.endpoint_id}
        if recorded.status is None:
            log.info("delivery was another's by then", **facts, number=sending.number, error=report.error)
        else:
            log.info("delivery", **facts, number=sending.number, status=recorded.status, error=report.error)
        if recorded.warned:
            log.warning("webhook endpoint is failing", endpoint_id=sending.endpoint_id)
        if recorded.disabled is not None:
            log.error("webhook endpoint disabled", endpoint_id=sending.endpoint_id, reason=recorded.disabled)
        if sending.is_test:
            self._announcer.tested(sending.id)
