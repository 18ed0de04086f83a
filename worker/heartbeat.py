"""The worker's pulse: keeps its row fresh, hears which calls to stop, and ends those past their deadline."""

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

LOOK_EVERY = 2.0
LOOKS_PER_AUDIT = 3
LOOKED_AT_ONCE = 250
SWEEP_EVERY = 0.25
HEARTBEAT_AGAIN_AFTER = 0.25
"""When one was not heard: a short outage is not to look like the silence of two beats."""

_REASONS = frozenset({AbortReason.CANCELLED, AbortReason.EXPIRED, AbortReason.SUPERSEDED})
"""Reasons for which another process may end a call; the others are this worker's own."""

log = get_logger(__name__)


class Heartbeat:
    """Four loops of one worker process; each outlives a database or a Redis that is away."""

    def __init__(
        self,
        database: Database,
        registration: WorkerRegistration,
        calls: InFlightCalls,
        client: "redis.Redis",
        stop_channel: str,
        rescue_orphans: Callable[[str], int],
    ) -> None:
        """`stop_channel` is where others publish which calls are to stop.

        `rescue_orphans` takes back what a worker's rows claim and it does not hold.
        """
        self._database = database
        self._registration = registration
        self._calls = calls
        self._client = client
        self._stop_channel = stop_channel
        self._rescue_orphans = rescue_orphans
        self._stopping = Event()
        self._heartbeat_due = Event()
        loops = (self._heartbeat, self._look_after, self._sweep, self._listen)
        self._threads = [Thread(target=loop, daemon=True) for loop in loops]

    def start(self) -> None:
        """Register the worker and begin.

        Raises:
            SQLAlchemyError: the database is away; a worker that has no row must not start.
        """
        self._registration.beat()
        for thread in self._threads:
            thread.start()

    def heartbeat_soon(self) -> None:
        """Beat without waiting for the next turn: what the worker listens to has changed."""
        self._heartbeat_due.set()

    def stop(self) -> None:
        """End the loops and leave the list of workers."""
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
                self._registration.beat()
                pause = HEARTBEAT_EVERY
            except SQLAlchemyError as error:
                log.warning("heartbeat failed", error=type(error).__name__)
            except Exception:  # whatever broke, the next beat must come: silence would be taken for death
                log.exception("heartbeat broke")

    def _look_after(self) -> None:
        """Apart from the beats, as with ten thousand calls these looks take long, which would count as silence.

        Some calls after the other, evenly over the time of a look, as all at once would be felt by everyone.
        """
        for number in count(1):
            pause = LOOK_EVERY / max(1, math.ceil(len(self._calls) / LOOKED_AT_ONCE))
            if self._stopping.wait(pause):
                return
            try:
                held = [*self._calls.attempts()]
                for start in range(0, len(held), LOOKED_AT_ONCE):
                    if start and self._stopping.wait(pause):
                        return
                    self._drop_settled(held[start : start + LOOKED_AT_ONCE])
                if number % LOOKS_PER_AUDIT == 0:
                    self._audit()
            except SQLAlchemyError as error:
                log.warning("look after calls failed", error=type(error).__name__)
            except Exception:  # the next look must come, or a call whose end was not heard runs to its deadline
                log.exception("look after calls broke")

    def _sweep(self) -> None:
        while not self._stopping.wait(SWEEP_EVERY):
            self._calls.abort_overdue()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
                    subscription.subscribe(self._stop_channel)
                    while not self._stopping.is_set():
                        message = subscription.get_message(timeout=1.0)
                        if message is not None:
                            self._hear(message["data"])
            except (RedisError, OSError) as error:
                log.warning("stop subscription lost", error=type(error).__name__)
                time.sleep(LISTEN_AGAIN_AFTER)
            except (
                Exception
            ):  # whatever broke, somebody has to listen: else a cancelled call goes on until the next look
                log.exception("stop subscription broke")
                time.sleep(LISTEN_AGAIN_AFTER)

    def _hear(self, message: bytes) -> None:
        """End what a message names. One that nobody of ours has sent is ignored: anything may come over Redis."""
        stop = Stop.from_bytes(message)
        if stop is not None and stop.reason in _REASONS:
            self._calls.abort(stop.job_id, stop.attempt, stop.reason)

    def _audit(self) -> None:
        """Give back what our rows claim and we do not hold."""
        worker_id = self._registration.worker_id
        if worker_id is not None:
            self._rescue_orphans(worker_id)

    def _drop_settled(self, held: Sequence[tuple[str, int]]) -> None:
        """Stop every call whose job has ended meanwhile, in case its announcement was lost.

        A job that is open under another worker is left alone: our answer may still come first and be taken.
        """
        ended = ended_among(self._database, (job_id for job_id, attempt in held if self._calls.holds(job_id, attempt)))
        for job_id, attempt in held:
            if job_id in ended:
                self._calls.abort(job_id, attempt, AbortReason.CANCELLED)
