"""Who this worker process is to the others, and whether it takes on work."""

import os
import socket
from dataclasses import dataclass

from jobs.store.database import Database, database_now
from jobs.store.workers import beat, leave, register
from jobs.telemetry import get_logger

log = get_logger(__name__)


@dataclass
class Identity:
    """A row in `workers`, touched by every heartbeat; replaced by a fresh one after we were given up for dead."""

    database: Database
    concurrency: int
    worker_id: str | None = None
    draining: bool = False

    @property
    def claiming_as(self) -> str | None:
        """Under which identity to claim; None while there is none, or no more work is taken on."""
        return None if self.draining else self.worker_id

    def beat(self) -> None:
        """Say that we live. Given up meanwhile, take a new identity: what we hold goes on and is delivered late."""
        with self.database.begin() as tx:
            now = database_now(tx)
            if self.worker_id is not None and beat(tx, self.worker_id, now, draining=self.draining):
                return
            former = self.worker_id
            fresh = register(tx, socket.gethostname(), os.getpid(), self.concurrency, now)
        self.worker_id = fresh
        log.info("worker registered", worker_id=fresh, former=former)

    def leave(self) -> None:
        """Go off the list; only once nothing is held."""
        if self.worker_id is None:
            return
        with self.database.begin() as tx:
            leave(tx, self.worker_id, database_now(tx))
        self.worker_id = None
