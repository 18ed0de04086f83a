"""The answers that this process owes to clients whose SDK would send their request again by itself.

Whether an answer was written is known here alone, at the very edge: the last piece has been handed to a connection
that was still there. A thread writes it down, for many requests at once, and says that this process lives; when it is
killed, its silence says that nothing more was written.
"""

import asyncio
import os
import socket
from collections import deque
from dataclasses import dataclass
from threading import Event, Thread
from time import monotonic
from typing import Final

import anyio
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.ids import new_id
from jobs.store.database import WITHIN_SECONDS, Database, database_now
from jobs.store.undelivered_creates import Process, heartbeat_process, leave_process, note_answered, note_lost
from jobs.telemetry import get_logger

HEARTBEAT_SECONDS: Final = 1.0
BATCH_SECONDS: Final = 0.05
WRITE_SECONDS: Final = 3.0
"""How long a beat may take: on a line that is silent, another connection is tried before silence is taken for death."""
STOP_SECONDS: Final = 5.0
DEBT: Final = "backburner.debt"

log = get_logger(__name__)


@dataclass
class Debt:
    """What one request owes: `request_id` once a job was accepted for it that it has to tell its client of.

    Whose answer says that this `is_unknown` has not told it, and its client may send the request again.
    """

    request_id: str | None = None
    is_unknown: bool = False


class UndeliveredTracker:
    """Writes down which answers were written and which lost their connection before."""

    def __init__(self, database: Database) -> None:
        self.process_id = new_id("api")
        self._database = database.not_durable()  # a mark that comes back with the machine is as if nobody was told
        self._within = WITHIN_SECONDS if database.is_sqlite else WRITE_SECONDS  # SQLite's writers have their turns
        self._answered: deque[str] = deque()
        self._lost: deque[str] = deque()
        self._lost_unwritten: set[str] = set()
        self._wake = Event()
        self._stopping = False
        self._heartbeat_at = float("-inf")
        self._thread = Thread(target=self._loop, name="undelivered", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Write down the last ones and leave."""
        self._stopping = True
        self._wake.set()
        self._thread.join(STOP_SECONDS)

    def answered(self, request_id: str) -> None:
        """The answer to this request has been written."""
        self._answered.append(request_id)
        self._wake.set()

    def lost(self, request_id: str) -> None:
        """Its connection was lost before."""
        self._lost_unwritten.add(request_id)
        self._lost.append(request_id)
        self._wake.set()

    def is_lost(self, request_id: str) -> bool:
        """Whether this process knows of a loss that the rows may not show yet."""
        return request_id in self._lost_unwritten

    def _loop(self) -> None:
        pause = Event()
        while not self._stopping:
            pause.wait(BATCH_SECONDS if self._write() else HEARTBEAT_SECONDS)
            if not (self._answered or self._lost):
                self._wake.wait(max(0.0, self._heartbeat_at + HEARTBEAT_SECONDS - monotonic()))
            self._wake.clear()
        self._write()
        try:
            with self._database.begin(within=self._within) as tx:
                leave_process(tx, self.process_id, database_now(tx))
        except SQLAlchemyError as error:
            log.warning("could not leave", error=type(error).__name__)
        self._database.close()

    def _write(self) -> bool:
        """Whether it could be written."""
        answered, lost = _drained(self._answered), _drained(self._lost)
        beats = monotonic() >= self._heartbeat_at + HEARTBEAT_SECONDS
        if not (answered or lost or beats):
            return True
        if beats:
            self._heartbeat_at = monotonic()
        try:
            with self._database.begin(within=self._within) as tx:
                now = self._database.ask_time(tx)
                if beats:
                    ahead = self._database.clock.host_ahead.total_seconds()
                    heartbeat_process(tx, Process(self.process_id, socket.gethostname(), os.getpid(), ahead), now)
                if lost:
                    note_lost(tx, lost, now)
                if answered:
                    note_answered(tx, answered)
        except SQLAlchemyError as error:
            log.warning("could not note what was answered", error=type(error).__name__)
            self._answered.extend(answered)
            self._lost.extend(lost)
            return False
        self._lost_unwritten.difference_update(lost)
        return True


def _drained(queue: deque[str], limit: int = 500) -> list[str]:
    return [queue.popleft() for _ in range(min(len(queue), limit))]


class NoteAnswers:
    """Sees each answer to its end. Plain ASGI and outermost, so that nothing is written past it."""

    def __init__(self, app: ASGIApp, undelivered: UndeliveredTracker) -> None:
        self._app = app
        self._undelivered = undelivered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        debt = Debt()
        scope[DEBT] = debt
        settled = streams = False
        head: Message | None = None  # kept until its body is there, so that the two leave together: decision 0005

        async def send_and_note(message: Message) -> None:
            nonlocal settled, streams, head
            if debt.request_id is None:
                await send(message)
                return
            if message["type"] == "http.response.start":
                streams = _is_stream(message)
                if not streams:
                    head = message
                    return
            ends = streams or not message.get("more_body", False)
            left = not settled and ends and await _has_left(receive)
            if head is not None:
                await send(head)
                head = None
            await send(message)
            if settled or not ends:
                return
            settled = True
            if left or debt.is_unknown:
                self._undelivered.lost(debt.request_id)
            else:
                self._undelivered.answered(debt.request_id)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            if debt.request_id is not None and not settled:
                self._undelivered.lost(debt.request_id)


def _is_stream(start: Message) -> bool:
    """Whether an SDK no longer sends the request again once it has the headers."""
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in start["headers"]
    )


async def _has_left(receive: Receive) -> bool:
    """Whether the client has closed its connection, as far as the event loop has heard; asks without waiting."""
    await asyncio.sleep(0)
    with anyio.CancelScope() as at_once:
        at_once.cancel()
        message = await receive()
        return bool(message["type"] == "http.disconnect")
    return False
