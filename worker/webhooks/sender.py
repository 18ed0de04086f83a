"""Webhook deliveries of this worker process: claim, sign, send, record.

Each message runs in a greenlet and a slot of its own. So a target that hangs blocks neither Celery's pool nor the slots
of calls, and a call that takes an hour delays no delivery. API keys share the slots, so that the targets of one key,
however many hang, leave slots to other keys. No transaction is open while a delivery is sent.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import version
from threading import Thread
from typing import Final, Protocol, TypeVar

from sqlalchemy import Connection

from jobs.batching import Batcher, BatchFailed
from jobs.cancel_reason import AbortReason
from jobs.clock import AGREE_WITHIN
from jobs.encryption import Cipher, DecryptionError
from jobs.fair_shares import Shares
from jobs.notifications import Notifier
from jobs.resource_shortage import shortage_of
from jobs.store.database import DATABASE_ERRORS, TOGETHER_SECONDS, Database
from jobs.store.webhooks.claims import ClaimedDelivery, DueDelivery, claim_deliveries, find_due, release_delivery
from jobs.store.webhooks.results import RecordedDelivery, record_delivery_attempt
from jobs.store.webhooks.scheduler import MOST_PER_TARGET, due_of_target
from jobs.telemetry import get_logger
from jobs.webhooks.protocol import DeliveryError, DeliveryReport, DeliveryStatus, signed_headers
from worker.capacity import Pause
from worker.commit_retry import commit_with_retry
from worker.provider.call_handle import CallHandle
from worker.registration import WorkerRegistration
from worker.webhooks.concurrency import Backlog, TargetLimits

LOOKED_UP_AT_ONCE: Final = 64
CLAIMED_AT_ONCE: Final = 16
"""Each waits for the commit of all, and claims of a process that dies have to be rescued."""

T = TypeVar("T")

log = get_logger(__name__)


class Post(Protocol):
    """Sends a body and always returns a report."""

    def post(
        self, url: str, headers: Mapping[str, str], body: bytes, handle: CallHandle, key: str = ""
    ) -> DeliveryReport:
        """Send one POST for the API key whose id is `key`."""


class WebhookSender:
    """Sends up to `slots` deliveries at once. No key can take all slots."""

    def __init__(
        self,
        database: Database,
        poster: Post,
        cipher: Cipher,
        *,
        registration: WorkerRegistration,
        notifier: Notifier,
        slots: int,
        on_end: Callable[[], None] = lambda: None,
        clock: Callable[[], datetime] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Create it. `on_end` is called when a slot has come free and more deliveries may be due."""
        self._database = database
        self._poster = poster
        self._cipher = cipher
        self._registration = registration
        self._notifier = notifier
        self._slots = slots
        self._on_end = on_end
        self._clock = clock or database.clock
        self._wall_clock = clock or database.wall_clock
        self._jitter = jitter
        self._shares = Shares(slots)
        self._refused_keys: set[str] = set()  # keys with more due deliveries than free slots
        self._limits = TargetLimits()
        self._pause = Pause()
        self._backlog = Backlog()
        self._lookups = Batcher(self._find_targets, LOOKED_UP_AT_ONCE)
        self._claims = Batcher(self._claim_all, CLAIMED_AT_ONCE)
        self._handles: set[CallHandle] = set()
        self._busy = 0

    def __len__(self) -> int:
        return self._busy

    def deliver(self, delivery_id: str) -> None:
        """Handle a message without waiting for its delivery.

        A message without a free slot is dropped and sent again later. That also happens while too many deliveries are
        being looked up, and while this process lacks files, memory or threads.
        """
        if self._pause.is_on or self._busy - self._shares.taken >= self._slots:
            return
        self._busy += 1
        Thread(target=self._run, args=(delivery_id,), daemon=True).start()

    def abort_all(self) -> None:
        """End every delivery. Those that are cut are sent again, under the same id."""
        for handle in list(self._handles):
            handle.abort(AbortReason.RELEASED)

    def _run(self, delivery_id: str) -> None:
        is_done = False
        try:
            is_done = self.run(delivery_id)
        except Exception:  # a delivery ends here, whatever broke; its claim is rescued later
            log.exception("delivery broke", delivery_id=delivery_id)
        finally:
            self._busy -= 1
        if not is_done:
            self._on_end()

    def run(self, delivery_id: str) -> bool:
        """Handle a message and return once the delivery is recorded. A stale message changes nothing.

        While slots are not scarce, other due deliveries to a target that works are sent too, without their messages.
        Return False if some of these may be left.
        """
        due = self._lookups.do(delivery_id)
        if due is None:
            return True
        if not self._shares.take(due.api_key_id):
            self._refused_keys.add(due.api_key_id)
            return True
        try:
            is_done = self._deliver_to(due, delivery_id)
        finally:
            self._shares.give_back(due.api_key_id)
        if due.api_key_id in self._refused_keys:
            self._refused_keys.discard(due.api_key_id)
            return False
        return is_done

    def _deliver_to(self, due: DueDelivery, delivery_id: str) -> bool:
        if not self._limits.take(due.target):
            self._backlog.add(due.target, [delivery_id])
            return True
        try:
            return self._send_all_due(due, delivery_id)
        finally:
            if self._limits.give_back(due.target):
                self._backlog.forget(due.target)

    def _send_all_due(self, due: DueDelivery, delivery_id: str) -> bool:
        target, has_others = due.target, due.has_others
        following: str | None = delivery_id
        missed = 0  # claims in a row that another process won or blocks
        while following is not None and missed < MOST_PER_TARGET:
            try:
                sending = self._claims.do(following)
            except (BatchFailed, *DATABASE_ERRORS) as error:
                log.warning("delivery not claimed", delivery_id=following, error=type(error).__name__)
                return False
            missed = missed + 1 if sending is None else 0
            if sending is not None:
                report, recorded = self._deliver(sending, due)
                if report.error is not None:
                    return False
                has_others = has_others or recorded.status is None  # it was rescued in the meantime, and is due again
            if self._is_scarce(due.api_key_id):
                return False
            following = self._backlog.take(target)
            has_others = has_others or following is not None
            if following is None and has_others:  # without others, a query for more would mostly find none
                following = self._find_more(target)
        return following is None

    def _is_scarce(self, api_key_id: str) -> bool:
        return self._registration.claiming_as is None or self._shares.is_half_used(api_key_id)

    def _deliver(self, sending: ClaimedDelivery, due: DueDelivery) -> tuple[DeliveryReport, RecordedDelivery]:
        """Return the report of the delivery, and what recording it has changed."""
        report = self._send(sending, due.api_key_id)
        if report.shortage is not None:
            return report, self._release(sending, report.shortage)
        self._limits.learn(due.target, report.error)
        return report, self._record(sending, report)

    def _find_targets(self, delivery_ids: Sequence[str]) -> Sequence[DueDelivery | None]:
        found = self._read(lambda tx: find_due(tx, delivery_ids, self._clock())) or {}
        return [found.get(each) for each in delivery_ids]

    def _claim_all(self, delivery_ids: Sequence[str]) -> Sequence[ClaimedDelivery | None]:
        worker_id = self._registration.claiming_as
        if worker_id is None:
            return [None] * len(delivery_ids)
        with self._database.begin(within=TOGETHER_SECONDS) as tx:
            claimed = claim_deliveries(tx, delivery_ids, worker_id, self._clock(), early=AGREE_WITHIN)
        return [claimed.pop(each, None) for each in delivery_ids]  # of two messages for one, the second is stale

    def _find_more(self, target: str) -> str | None:
        """Return another due delivery to this target, and keep the others that were found.

        They begin with a random one, as other processes find the same ones.
        """
        due = self._read(lambda tx: due_of_target(tx, target, self._clock(), MOST_PER_TARGET)) or []
        first = int(self._jitter() * len(due))
        self._backlog.add(target, due[first:] + due[:first])
        return self._backlog.take(target)

    def _read(self, query: Callable[[Connection], T]) -> T | None:
        try:
            with self._database.read() as tx:
                return query(tx)
        except DATABASE_ERRORS as error:
            log.warning("deliveries could not be read", error=type(error).__name__)
            return None

    def _send(self, sending: ClaimedDelivery, api_key_id: str) -> DeliveryReport:
        """Sign and post. Whatever breaks is a failed attempt, which the schedule counts.

        A shortage of this process, in which nothing was sent, does not count.
        """
        handle = CallHandle()
        try:
            return self._sign_and_post(sending, api_key_id, handle)
        except DecryptionError as error:
            log.warning("delivery not signed", delivery_id=sending.id, reason=str(error))
            return DeliveryReport(DeliveryError.SECRET_UNREADABLE)
        except Exception as error:
            shortage = shortage_of(error) if handle.never_sent else None
            if shortage is None:
                log.exception("delivery broke", delivery_id=sending.id)
            return DeliveryReport(DeliveryError.INTERRUPTED, shortage=shortage)

    def _sign_and_post(self, sending: ClaimedDelivery, api_key_id: str, handle: CallHandle) -> DeliveryReport:
        body = sending.payload.encode()
        secrets = [self._cipher.decrypt(secret) for secret in sending.secrets]
        headers = {
            "Content-Type": "application/json",
            "User-Agent": _user_agent(),
            **signed_headers(secrets, sending.event_id, self._wall_clock(), body),
        }
        self._handles.add(handle)
        try:
            return self._poster.post(sending.url, headers, body, handle, api_key_id)
        finally:
            self._handles.discard(handle)

    def _release(self, sending: ClaimedDelivery, shortage: str) -> RecordedDelivery:
        """Release it for another worker, or for this one after a pause. It does not count as an attempt."""
        is_ours = commit_with_retry(
            self._database, lambda tx: release_delivery(tx, sending, self._clock()), delivery_id=sending.id
        )
        if self._pause.begin():
            log.warning("deliveries released", reason=shortage, delivery_id=sending.id)
        return RecordedDelivery(DeliveryStatus.PENDING if is_ours else None)

    def _record(self, sending: ClaimedDelivery, report: DeliveryReport) -> RecordedDelivery:
        """Commit the result, however long the database is away, or the delivery would be sent again."""
        recorded = commit_with_retry(
            self._database,
            lambda tx: record_delivery_attempt(tx, sending, report, self._clock(), self._jitter()),
            delivery_id=sending.id,
        )
        self._log(sending, report, recorded)
        return recorded

    def _log(self, sending: ClaimedDelivery, report: DeliveryReport, recorded: RecordedDelivery) -> None:
        facts = {"delivery_id": sending.id, "event_id": sending.event_id, "endpoint_id": sending.endpoint_id}
        if recorded.status is None:
            log.info("delivery belongs to another worker", **facts, number=sending.number, error=report.error)
        else:
            log.info("delivery", **facts, number=sending.number, status=recorded.status, error=report.error)
        if recorded.warned:
            log.warning("webhook endpoint is failing", endpoint_id=sending.endpoint_id)
        if recorded.disabled is not None:
            log.error("webhook endpoint disabled", endpoint_id=sending.endpoint_id, reason=recorded.disabled)
        if sending.is_test:
            self._notifier.test_ended(sending.id)


@cache
def _user_agent() -> str:
    return f"Backburner/{version('backburner')}"
