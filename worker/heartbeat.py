"""Background loops of a worker: heartbeats, checks of its calls, and messages that stop calls."""

import math
import time
from collections.abc import Callable, Sequence
from itertools import count
from threading import Event, Thread

import redis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from jobs.cancel_reason import AbortReason
from jobs.notifications import Stop
from jobs.redis_subscription import LISTEN_AGAIN_AFTER
from jobs.store.database import Database
from jobs.store.responses import ended_among
from jobs.telemetry import get_logger
from worker.in_flight import InFlightCalls
from worker.registration import HEARTBEAT_EVERY, WorkerRegistration

CHECK_EVERY = 2.0
CHECKS_PER_AUDIT = 3
CHECKED_AT_ONCE = 250
TIMEOUTS_EVERY = 0.25
HEARTBEAT_AGAIN_AFTER = 0.25
"""Pause after one that failed: a short outage must not look like two missing heartbeats."""

_REASONS = frozenset({AbortReason.CANCELLED, AbortReason.EXPIRED, AbortReason.SUPERSEDED})
"""Reasons for which another process may stop a call. The others are this worker's own."""

log = get_logger(__name__)


class Heartbeat:
    """Four loops of one worker process. Each survives a database or Redis that is away."""

    def __init__(
        self,
        database: Database,
        registration: WorkerRegistration,
        calls: InFlightCalls,
        client: "redis.Redis",
        stop_channel: str,
        rescue_orphans: Callable[[str], int],
    ) -> None:
        """Create it. Other processes publish on `stop_channel` which calls should stop.

        `rescue_orphans` rescues jobs that a worker has claimed by its rows but does not hold.
        """
        self._database = database
        self._registration = registration
        self._calls = calls
        self._client = client
        self._stop_channel = stop_channel
        self._rescue_orphans = rescue_orphans
        self._stopping = Event()
        self._heartbeat_due = Event()
        loops = (self._heartbeat, self._check_calls, self._check_timeouts, self._listen)
        self._threads = [Thread(target=loop, daemon=True) for loop in loops]

    def start(self) -> None:
        """Register the worker and begin.

        Raises:
            SQLAlchemyError: the database is away; a worker that has no row must not start.
        """
        self._registration.send_heartbeat()
        for thread in self._threads:
            thread.start()

    def heartbeat_soon(self) -> None:
        """Send a heartbeat now, as the subscribed queues have changed."""
        self._heartbeat_due.set()

    def stop(self) -> None:
        """End the loops and mark the worker's row as ended."""
        self._stopping.set()
        self._heartbeat_due.set()
        try:
            self._registration.leave()
        except SQLAlchemyError as error:
            log.warning("could not leave", error=type(error).__name__)

    def _heartbeat(self) -> None:
        pause = HEARTBEAT_EVERY
        while True:
            self._heartbeat_due.wait(pause)
            self._heartbeat_due.clear()
            if self._stopping.is_set():
                return
            pause = HEARTBEAT_AGAIN_AFTER
            try:
                self._registration.send_heartbeat()
                pause = HEARTBEAT_EVERY
            except SQLAlchemyError as error:
                log.warning("heartbeat failed", error=type(error).__name__)
            except Exception:  # whatever broke, the next one must follow, or the worker counts as dead
                log.exception("heartbeat broke")

    def _check_calls(self) -> None:
        """Check whether jobs have ended. Not in the heartbeat's loop, which ten thousand calls would delay.

        The calls are checked in parts, spread over `CHECK_EVERY`, so that no check delays other work.
        """
        for number in count(1):
            pause = CHECK_EVERY / max(1, math.ceil(len(self._calls) / CHECKED_AT_ONCE))
            if self._stopping.wait(pause):
                return
            try:
                held = [*self._calls.attempts()]
                for start in range(0, len(held), CHECKED_AT_ONCE):
                    if start and self._stopping.wait(pause):
                        return
                    self._stop_ended(held[start : start + CHECKED_AT_ONCE])
                if number % CHECKS_PER_AUDIT == 0:
                    self._audit()
            except SQLAlchemyError as error:
                log.warning("check of calls failed", error=type(error).__name__)
            except Exception:  # without the next check, a call whose stop message was lost runs to its deadline
                log.exception("check of calls broke")

    def _check_timeouts(self) -> None:
        while not self._stopping.wait(TIMEOUTS_EVERY):
            self._calls.abort_overdue()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
                    subscription.subscribe(self._stop_channel)
                    while not self._stopping.is_set():
                        message = subscription.get_message(timeout=1.0)
                        if message is not None:
                            self._stop_call(message["data"])
            except (RedisError, OSError) as error:
                log.warning("stop subscription lost", error=type(error).__name__)
                time.sleep(LISTEN_AGAIN_AFTER)
            except Exception:  # without the subscription, a cancelled call runs on until the next check
                log.exception("stop subscription broke")
                time.sleep(LISTEN_AGAIN_AFTER)

    def _stop_call(self, message: bytes) -> None:
        """Stop the call that a message names. Messages that are not ours are ignored: anyone may publish on Redis."""
        stop = Stop.from_bytes(message)
        if stop is not None and stop.reason in _REASONS:
            self._calls.abort(stop.job_id, stop.attempt, stop.reason)

    def _audit(self) -> None:
        """Rescue what this worker's rows claim and it does not hold."""
        worker_id = self._registration.worker_id
        if worker_id is not None:
            self._rescue_orphans(worker_id)

    def _stop_ended(self, held: Sequence[tuple[str, int]]) -> None:
        """Stop every call whose job has ended, in case the stop message was lost.

        A call whose job another worker runs by now goes on: its answer may come first, and is adopted then.
        """
        ended = ended_among(self._database, (job_id for job_id, attempt in held if self._calls.holds(job_id, attempt)))
        for job_id, attempt in held:
            if job_id in ended:
                self._calls.abort(job_id, attempt, AbortReason.CANCELLED)
