"""Tracking whether responses reach their clients: steps 3 and 4 of the SDK-retry protocol.

Only the outermost layer knows that a response was written: its last piece was handed to a connection that was open.
A thread records this in the database, for many requests at once, together with a heartbeat of this process.
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
from jobs.store.undelivered_creates import ApiProcess, delete_delivered, mark_lost, record_heartbeat, remove_process
from jobs.telemetry import get_logger

HEARTBEAT_SECONDS: Final = 1.0
BATCH_SECONDS: Final = 0.05
WRITE_SECONDS: Final = 3.0
"""Time limit of one write. If its connection hangs, another is tried before this process counts as silent."""
STOP_SECONDS: Final = 5.0
TRACKED: Final = "backburner.tracked"
"""Key of the ASGI scope under which a POST has its `TrackedRequest`."""

log = get_logger(__name__)


@dataclass
class TrackedRequest:
    """State of one POST, set by its route: `request_id` of the `UndeliveredCreate` that it may have inserted.

    A response that says that the `outcome_is_unknown` counts as undelivered, as its client may send the request again.
    """

    request_id: str | None = None
    outcome_is_unknown: bool = False


class UndeliveredTracker:
    """Records which responses were delivered, which lost their connection, and that this process is alive."""

    def __init__(self, database: Database) -> None:
        self.process_id = new_id("api")
        self._database = (
            database.open_not_durable()
        )  # a delivery forgotten in a crash of the host only allows one more join
        self._within = WITHIN_SECONDS if database.is_sqlite else WRITE_SECONDS  # writers of SQLite wait for one another
        self._delivered: deque[str] = deque()
        self._lost: deque[str] = deque()
        self._lost_unwritten: set[str] = set()
        self._wake = Event()
        self._stopping = False
        self._heartbeat_at = float("-inf")
        self._thread = Thread(target=self._loop, name="undelivered", daemon=True)

    def start(self) -> None:
        """Start the thread, and with it the heartbeat."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, remove this process's row, and stop the thread."""
        self._stopping = True
        self._wake.set()
        self._thread.join(STOP_SECONDS)

    def delivered(self, request_id: str) -> None:
        """Record that the response to this request has been written."""
        self._delivered.append(request_id)
        self._wake.set()

    def lost(self, request_id: str) -> None:
        """Record that the connection of this request was lost before its response was written."""
        self._lost_unwritten.add(request_id)
        self._lost.append(request_id)
        self._wake.set()

    def is_lost(self, request_id: str) -> bool:
        """Return whether this process knows of a loss that the database may not show yet."""
        return request_id in self._lost_unwritten

    def _loop(self) -> None:
        pause = Event()
        while not self._stopping:
            pause.wait(BATCH_SECONDS if self._write() else HEARTBEAT_SECONDS)
            if not (self._delivered or self._lost):
                self._wake.wait(max(0.0, self._heartbeat_at + HEARTBEAT_SECONDS - monotonic()))
            self._wake.clear()
        self._write()
        try:
            with self._database.begin(within=self._within) as tx:
                remove_process(tx, self.process_id, database_now(tx))
        except SQLAlchemyError as error:
            log.warning("API process not removed", error=type(error).__name__)
        self._database.close()

    def _write(self) -> bool:
        """Write what has been recorded, and the heartbeat if it is due; return False if the database failed."""
        delivered, lost = _drain(self._delivered), _drain(self._lost)
        heartbeat_is_due = monotonic() >= self._heartbeat_at + HEARTBEAT_SECONDS
        if not (delivered or lost or heartbeat_is_due):
            return True
        if heartbeat_is_due:
            self._heartbeat_at = monotonic()
        try:
            with self._database.begin(within=self._within) as tx:
                now = self._database.ask_time(tx)
                if heartbeat_is_due:
                    ahead = self._database.clock.host_ahead.total_seconds()
                    record_heartbeat(tx, ApiProcess(self.process_id, socket.gethostname(), os.getpid(), ahead), now)
                if lost:
                    mark_lost(tx, lost, now)
                if delivered:
                    delete_delivered(tx, delivered)
        except SQLAlchemyError as error:
            log.warning("undelivered creates not written", error=type(error).__name__)
            self._delivered.extend(delivered)
            self._lost.extend(lost)
            return False
        self._lost_unwritten.difference_update(lost)
        return True


def _drain(queue: deque[str], limit: int = 500) -> list[str]:
    return [queue.popleft() for _ in range(min(len(queue), limit))]


class TrackDelivery:
    """ASGI layer that follows the response of each tracked POST to its end. Outermost, so that nothing bypasses it."""

    def __init__(self, app: ASGIApp, tracker: UndeliveredTracker) -> None:
        self._app = app
        self._tracker = tracker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        tracked = TrackedRequest()
        scope[TRACKED] = tracked
        is_recorded = is_stream = False
        head: Message | None = None  # kept until the body is there, so that nothing comes between the two

        async def send_and_record(message: Message) -> None:
            nonlocal is_recorded, is_stream, head
            if tracked.request_id is None:
                await send(message)
                return
            if message["type"] == "http.response.start":
                is_stream = _is_stream(message)
                if not is_stream:
                    head = message
                    return
            is_delivery = is_stream or not message.get("more_body", False)
            client_has_left = not is_recorded and is_delivery and await _client_has_left(receive)
            if head is not None:
                await send(head)
                head = None
            await send(message)
            if is_recorded or not is_delivery:
                return
            is_recorded = True
            if client_has_left or tracked.outcome_is_unknown:
                self._tracker.lost(tracked.request_id)
            else:
                self._tracker.delivered(tracked.request_id)

        try:
            await self._app(scope, receive, send_and_record)
        finally:
            if tracked.request_id is not None and not is_recorded:
                self._tracker.lost(tracked.request_id)


def _is_stream(start: Message) -> bool:
    """Return whether this response is a stream: once an SDK has its headers, it does not retry."""
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in start["headers"]
    )


async def _client_has_left(receive: Receive) -> bool:
    """Return whether the event loop has noticed that the client closed its connection; never wait for it."""
    await asyncio.sleep(0)
    with anyio.CancelScope() as at_once:
        at_once.cancel()
        message = await receive()
        return bool(message["type"] == "http.disconnect")
    return False
