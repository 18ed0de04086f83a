"""Asks every API for its readiness each second, and the database for jobs that have been due for long."""

import threading
import time

import httpx
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from jobs.store import schema
from jobs.store.database import Database, database_now
from jobs.store.overdue_jobs import OVERDUE
from tests.chaos.clients import ReadinessReport, Seen, Wait
from tests.chaos.world import World

EVERY_SECONDS = 1.0
LOOK_EVERY_SECONDS = 0.5
ANSWER_SECONDS = 10.0


def ask(url: str, seen: Seen, over: threading.Event) -> None:
    """Ask one API every second. A frozen, killed or starting one does not answer, which proves nothing."""
    with httpx.Client(timeout=ANSWER_SECONDS) as http:
        while not over.wait(EVERY_SECONDS):
            asked_at = time.time()
            try:
                body = http.get(f"{url}/readyz").json()
            except (httpx.HTTPError, ValueError):
                continue
            seen.reported.append(ReadinessReport(asked_at, time.time(), body))


def look(world: World, seen: Seen, over: threading.Event) -> None:
    """Note the queued jobs that were due `OVERDUE` ago, over a connection without faults.

    A job that returns to the queue is due at another time, so id and due time identify one wait.
    """
    row = schema.jobs.c
    database = Database(world.database_url, pool_size=1)
    while not over.wait(LOOK_EVERY_SECONDS):
        at = time.time()
        try:
            with database.read(within=ANSWER_SECONDS) as tx:
                before = database_now(tx) - OVERDUE
                waiting = select(row.id, row.available_at).where(schema.IS_QUEUED, row.available_at <= before)
                found = [(job_id, due_at.timestamp()) for job_id, due_at in tx.execute(waiting)]
        except SQLAlchemyError:  # the server is away
            continue
        for each in found:
            seen.overdue.setdefault(each, Wait(at, at)).last = at
    database.close()
