"""Deliveries of this worker process: claim, sign, send, record.

A bell is answered in a greenlet of its own, on slots of its own: a receiver that hangs holds neither Celery's pool nor
the slots of calls, and calls that take an hour hold up no delivery. The slots are shared between API keys, so that one
key's receivers, however many they are and however they hang, leave slots to the others. No transaction is open while
the network is.
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
from worker.webhooks.concurrency import Backlog, Widths

LOOKED_UP_AT_ONCE: Final = 64
CLAIMED_AT_ONCE: Final = 16
"""Each waits for the commit of all, and what is claimed when a process dies has to be rescued."""

T = TypeVar("T")

log = get_logger(__name__)


class Post(Protocol):
    """What sends a body and always comes back with a report."""

    def post(
        self, url: str, headers: Mapping[str, str], body: bytes, handle: CallHandle, key: str = ""
    ) -> DeliveryReport:
        """One POST, for the API key with this id."""


class WebhookSender:
    """Answers bells for deliveries, up to `slots` at once, of which no key can take all."""

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
        """`on_end` is told when a slot has come free for which there may be more to do than this sender knows of."""
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
        self._turned_away: set[str] = set()  # keys with more to do than they may at once
        self._widths = Widths()
        self._pause = Pause()
        self._backlog = Backlog()
        self._looks = Batcher(self._find_targets, LOOKED_UP_AT_ONCE)
        self._claims = Batcher(self._claim_all, CLAIMED_AT_ONCE)
        self._handles: set[CallHandle] = set()
        self._busy = 0

    def __len__(self) -> int:
        return self._busy

    def answer(self, delivery_id: str) -> None:
        """Answer a bell without waiting for what comes of it.

        One for which there is no slot is dropped, and rung again: once it is known whose it is, or before that while
        very many are being looked at. So is each while this process is short of what a delivery needs.
        """
        if self._pause.is_on or self._busy - self._shares.taken >= self._slots:
            return
        self._busy += 1
        Thread(target=self._run, args=(delivery_id,), daemon=True).start()

    def abort_all(self) -> None:
        """End every delivery; what is cut goes out again, under the same id."""
        for handle in list(self._handles):
            handle.abort(AbortReason.RELEASED)

    def _run(self, delivery_id: str) -> None:
        is_done = False
        try:
            is_done = self.run(delivery_id)
        except Exception:  # a delivery ends here, whatever broke; its claim is taken back in time
            log.exception("delivery broke", delivery_id=delivery_id)
        finally:
            self._busy -= 1
        if not is_done:
            self._on_end()

    def run(self, delivery_id: str) -> bool:
        """Answer a bell, and come back once the delivery is recorded. A stale bell changes nothing.

        What else is due to a receiver that works need not wait for its bell, while slots are not scarce. False when
        some of it may have been left.
        """
        due = self._looks.do(delivery_id)
        if due is None:
            return True
        if not self._shares.take(due.api_key_id):
            self._turned_away.add(due.api_key_id)
            return True
        try:
            is_done = self._deliver_to(due, delivery_id)
        finally:
            self._shares.give_back(due.api_key_id)
        if due.api_key_id in self._turned_away:
            self._turned_away.discard(due.api_key_id)
            return False
        return is_done

    def _deliver_to(self, due: DueDelivery, delivery_id: str) -> bool:
        if not self._widths.take(due.target):
            self._backlog.add(due.target, [delivery_id])
            return True
        try:
            return self._take_turns(due, delivery_id)
        finally:
            if self._widths.give_back(due.target):
                self._backlog.forget(due.target)

    def _take_turns(self, due: DueDelivery, delivery_id: str) -> bool:
        receiver, has_others = due.target, due.has_others
        following: str | None = delivery_id
        in_vain = 0  # another was quicker, or holds the row: not to be asked for over and over
        while following is not None and in_vain < MOST_PER_TARGET:
            try:
                sending = self._claims.do(following)
            except (BatchFailed, *DATABASE_ERRORS) as error:
                log.warning("delivery not claimed", delivery_id=following, error=type(error).__name__)
                return False
            in_vain = in_vain + 1 if sending is None else 0
            if sending is not None:
                report, recorded = self._deliver(sending, due)
                if report.error is not None:
                    return False
                has_others = has_others or recorded.status is None  # it was rescued meanwhile, and is due again
            if self._is_scarce(due.api_key_id):
                return False
            following = self._backlog.take(receiver)
            has_others = has_others or following is not None
            if following is None and has_others:  # nobody looks for more in vain who came alone: each end rings
                following = self._look_for_more(receiver)
        return following is None

    def _is_scarce(self, api_key_id: str) -> bool:
        return self._registration.claiming_as is None or self._shares.is_half_used(api_key_id)

    def _deliver(self, sending: ClaimedDelivery, due: DueDelivery) -> tuple[DeliveryReport, RecordedDelivery]:
        """What the receiver made of it, and what that has changed."""
        report = self._send(sending, due.api_key_id)
        if report.shortage is not None:
            return report, self._put_back(sending, report.shortage)
        self._widths.learn(due.target, report.error)
        return report, self._record(sending, report)

    def _find_targets(self, delivery_ids: Sequence[str]) -> Sequence[DueDelivery | None]:
        found = self._look(lambda tx: find_due(tx, delivery_ids, self._clock())) or {}
        return [found.get(each) for each in delivery_ids]

    def _claim_all(self, delivery_ids: Sequence[str]) -> Sequence[ClaimedDelivery | None]:
        worker_id = self._registration.claiming_as
        if worker_id is None:
            return [None] * len(delivery_ids)
        with self._database.begin(within=TOGETHER_SECONDS) as tx:
            claimed = claim_deliveries(tx, delivery_ids, worker_id, self._clock(), early=AGREE_WITHIN)
        return [claimed.pop(each, None) for each in delivery_ids]  # of two bells for one, the second is stale

    def _look_for_more(self, receiver: str) -> str | None:
        """Another due delivery for this receiver; the others found are kept for whoever asks next.

        Beginning with any of them, as other processes look as well.
        """
        due = self._look(lambda tx: due_of_target(tx, receiver, self._clock(), MOST_PER_TARGET)) or []
        first = int(self._jitter() * len(due))
        self._backlog.add(receiver, due[first:] + due[:first])
        return self._backlog.take(receiver)

    def _look(self, look: Callable[[Connection], T]) -> T | None:
        try:
            with self._database.read() as tx:
                return look(tx)
        except DATABASE_ERRORS as error:
            log.warning("deliveries not looked at", error=type(error).__name__)
            return None

    def _send(self, sending: ClaimedDelivery, api_key_id: str) -> DeliveryReport:
        """Sign and post; whatever breaks on the way is a failed try, which the schedule counts.

        Not so what this process itself was short of, with which nothing was sent.
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

    def _put_back(self, sending: ClaimedDelivery, shortage: str) -> RecordedDelivery:
        """Leave it to another worker, or to ourselves once the shortage may be over: it is nobody's failed try."""
        is_ours = commit_with_retry(
            self._database, lambda tx: release_delivery(tx, sending, self._clock()), delivery_id=sending.id
        )
        if self._pause.begin():
            log.warning("deliveries put back", reason=shortage, delivery_id=sending.id)
        return RecordedDelivery(DeliveryStatus.PENDING if is_ours else None)

    def _record(self, sending: ClaimedDelivery, report: DeliveryReport) -> RecordedDelivery:
        """Commit what came of it, however long the database is away: else it would go out again."""
        recorded = commit_with_retry(
            self._database,
            lambda tx: record_delivery_attempt(tx, sending, report, self._clock(), self._jitter()),
            delivery_id=sending.id,
        )
        self._tell(sending, report, recorded)
        return recorded

    def _tell(self, sending: ClaimedDelivery, report: DeliveryReport, recorded: RecordedDelivery) -> None:
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
            self._notifier.test_ended(sending.id)


@cache
def _user_agent() -> str:
    return f"Backburner/{version('backburner')}"
