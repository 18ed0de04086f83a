"""Kills workers and flushes the broker while webhooks are sent, then counts what arrived."""

import signal
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import select

from jobs.encryption import generate_key
from jobs.store import schema
from jobs.store.database import Database
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until
from tests.support.webhook_endpoint import Answer, Destination

RECEIVERS = 8
SUBMITTERS = 4
SETTINGS = {
    "BACKBURNER_WEBHOOK_ALLOW_HTTP": "true",
    "BACKBURNER_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
    "BACKBURNER_WORKER_TIMEOUT_SECONDS": "3",
}


@dataclass(frozen=True)
class Outcome:
    """The counts. `unexplained` are events that arrived more often than killed workers can explain.

    Each of them with how often it arrived, and what its tries came to.
    """

    events: int
    missing: set[str]
    duplicates: int
    unexplained: dict[str, tuple[int, list[str]]]
    lost_attempts: int
    undelivered: int


def deliver_under_fire(
    database_url: str, valkey: ValkeyServer, directory: Path, *, events: int, kills: int, flushes: int, seconds: float
) -> Outcome:
    """Let `events` responses end, with kills and flushes spread evenly over their deliveries."""
    environment = {**SETTINGS, "BACKBURNER_ENCRYPTION_KEYS": generate_key()}
    with ExitStack() as exits:
        stack = exits.enter_context(Stack(database_url, valkey.url, directory, environment, workers=2))
        answering = Answer(hang=0.2)
        receivers = [exits.enter_context(Destination(lambda _: answering)) for _ in range(RECEIVERS)]
        with stack.openai() as client:
            for receiver in receivers:
                client.webhooks.create(name="hook", url=receiver.url, event_types=["response.cancelled"])
        jobs = events // RECEIVERS

        submitting = exits.enter_context(ThreadPoolExecutor(SUBMITTERS))
        submitted = [submitting.submit(_end_a_job, stack) for _ in range(jobs)]
        total = kills + flushes
        blows = ["kill" if number * kills % total < kills else "flush" for number in range(total)]
        for number, blow in enumerate(blows, 1):
            mark = events * number // (len(blows) + 1)
            await_until(partial(_at_least, receivers, mark), seconds, stack.logs)
            if blow == "flush":
                valkey.flush()
            else:
                stack.worker_processes.pop(0).signal(signal.SIGKILL)
                stack.worker_processes.append(stack.start_worker())
        for each in submitted:
            each.result()
        database = Database(database_url, pool_size=2)
        exits.callback(database.close)
        await_until(lambda: not _open(database), seconds, stack.logs)
        return _outcome(database, Counter(name for receiver in receivers for name in _named(receiver)))


def _at_least(receivers: Sequence[Destination], count: int) -> bool:
    return sum(len(receiver.delivered) for receiver in receivers) >= count


def _named(receiver: Destination) -> list[str]:
    return [f"{receiver.port} {each}" for each in receiver.ids()]


def _end_a_job(stack: Stack) -> None:
    with stack.http() as http:
        body = {"model": "openai/o3-pro", "input": "[[sim: full delay=60]] x", "background": True}
        job_id = http.post("/responses", json=body).raise_for_status().json()["id"]
        http.post(f"/responses/{job_id}/cancel").raise_for_status()


def _open(database: Database) -> bool:
    row = schema.webhook_deliveries.c
    with database.read() as tx:
        return tx.execute(select(row.id).where(row.ended_at.is_(None)).limit(1)).first() is not None


def _outcome(database: Database, arrived: Counter[str]) -> Outcome:
    row, endpoint, made = schema.webhook_deliveries.c, schema.webhook_endpoints.c, schema.webhook_delivery_attempts.c
    with database.read() as tx:
        joined = schema.webhook_deliveries.join(schema.webhook_endpoints, endpoint.id == row.endpoint_id)
        query = select(row.id, row.event_id, row.status, endpoint.url).select_from(joined)
        deliveries = {each.id: each for each in tx.execute(query)}
        attempts: dict[str, list[str]] = {}
        for each in tx.execute(select(made.delivery_id, made.error_kind).order_by(made.delivery_id, made.number)):
            attempts.setdefault(each.delivery_id, []).append(each.error_kind or "delivered")
    ports = {delivery_id: each.url.rsplit(":", 1)[1].partition("/")[0] for delivery_id, each in deliveries.items()}
    names = {delivery_id: f"{ports[delivery_id]} {each.event_id}" for delivery_id, each in deliveries.items()}
    unexplained = {
        delivery_id: (arrived[name], attempts[delivery_id])
        for delivery_id, name in names.items()
        if arrived[name] > 1 + attempts[delivery_id].count("lost")
    }
    return Outcome(
        events=len(deliveries),
        missing={delivery_id for delivery_id, name in names.items() if not arrived[name]},
        duplicates=sum(arrived.values()) - len(arrived),
        unexplained=unexplained,
        lost_attempts=sum(each.count("lost") for each in attempts.values()),
        undelivered=sum(each.status != "delivered" for each in deliveries.values()),
    )
