"""A database with the rows of a busy month, for the tests of query plans."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any

from sqlalchemy import Connection, insert, text

from jobs.job import Outcome
from jobs.lifecycle import Status
from jobs.store import schema
from jobs.store.database import Database
from jobs.store.usage_rollup import SUMS
from tests.support.clock import START
from tests.support.records import MODEL

JOBS = 20_000
KEYS = 40
IDLE_KEYS = 5_000
MODELS = (MODEL, MODEL, MODEL, "openai/gpt-5.6-sol")
NOW = START


@dataclass
class World:
    database: Database
    key_id: str
    by_status: dict[Status, list[str]]
    worker_id: str
    now: datetime = NOW

    def one(self, status: Status) -> str:
        return self.by_status[status][len(self.by_status[status]) // 2]


def fill(database: Database) -> World:
    """Insert thirty days of jobs: most have ended, some wait, few run. One of many keys has half of them."""
    chance = Random(4711)
    key_ids = [f"key_{number:032x}" for number in range(KEYS)]
    idle = [f"key_f{number:031x}" for number in range(IDLE_KEYS)]
    worker_ids = [f"wrk_{number:032x}" for number in range(20)]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("jobs", "requests", "answers", "labels", "attempts")}
    by_status: dict[Status, list[str]] = {status: [] for status in Status}
    earlier: dict[str, str] = {}
    statuses = chance.choices(list(Status), [10, 1, 80, 3, 4, 2], k=JOBS)
    for number, status in enumerate(statuses):
        key_id = key_ids[0] if chance.random() < 0.5 else chance.choice(key_ids)
        made_at = NOW - timedelta(days=30) * (1 - number / JOBS)
        job_id = f"resp_{int(made_at.timestamp() * 1000):012x}{number:020x}"
        ended_at = made_at + timedelta(minutes=5) if status.is_terminal else None
        worker_id = chance.choice(worker_ids) if status is Status.IN_PROGRESS else None
        wait = timedelta(hours=chance.choice([-48, -1, 1])) if status is Status.QUEUED else timedelta(0)
        follows = earlier.get(key_id) if number % 7 == 0 else None
        earlier[key_id] = job_id
        if key_id == key_ids[0]:
            by_status[status].append(job_id)
        called = status is not Status.QUEUED
        rows["jobs"].append(
            {
                "id": job_id,
                "api_key_id": key_id,
                "model": chance.choice(MODELS),
                "status": status,
                "attempt": int(called),
                "failures": 0,
                "max_attempts": 5,
                "on_unknown_outcome": "retry",
                "truncation": "disabled",
                "background": True,
                "priority": chance.choice([5, 5, 5, 1, 9]),
                "created_at": made_at,
                "updated_at": made_at,
                "available_at": NOW + wait,
                "deadline_at": (NOW if ended_at is None else made_at) + chance.random() * timedelta(days=1),
                "completed_at": ended_at,
                "worker_id": worker_id,
                "previous_response_id": follows,
                "blocked_by": follows if wait > timedelta(0) and number % 5 == 0 else None,
                "store": number % 500 != 0,
            }
        )
        rows["requests"].append({"job_id": job_id, "settings": {"model": MODEL}, "input": "Hello " * 20})
        if status is Status.COMPLETED:
            rows["answers"].append({"job_id": job_id, "response": {"output": []}, "raw": b"{}"})
        labels = {"project": chance.choice("abc"), "ticket": str(number)}
        rows["labels"] += [{"job_id": job_id, "key": k, "api_key_id": key_id, "value": v} for k, v in labels.items()]
        if called:
            ended = {"ended_at": ended_at, "outcome": "completed" if ended_at else None}
            rows["attempts"].append(
                {
                    "job_id": job_id,
                    "number": 1,
                    "api_key_id": key_id,
                    "model": MODEL,
                    "worker_id": worker_id or chance.choice(worker_ids),
                    "started_at": made_at,
                    "billed": "yes",
                    "truncation": "disabled",
                    "total_tokens": 3,
                    **ended,
                }
            )
    with database.begin(within=float("inf")) as tx:
        made = [
            {"id": each, "name": each, "sha256": each, "scopes": [], "created_at": NOW} for each in (*key_ids, *idle)
        ]
        tx.execute(insert(schema.api_keys), made)
        host = {"host": "h", "pid": 1, "concurrency": 100, "started_at": NOW}
        beats = [
            {"id": each, **host, "heartbeat_at": NOW, "ended_at": NOW if index < 2 else None}
            for index, each in enumerate(worker_ids)
        ]
        tx.execute(insert(schema.workers), beats)
        tx.execute(insert(schema.jobs), rows["jobs"])
        tx.execute(insert(schema.requests), rows["requests"])
        tx.execute(insert(schema.answers), rows["answers"])
        keys_of = {each["id"]: each["api_key_id"] for each in rows["jobs"]}
        tx.execute(
            insert(schema.output_items),
            [
                {"job_id": each["job_id"], "item_id": item_id, "api_key_id": keys_of[each["job_id"]]}
                for each in rows["answers"]
                for item_id in (f"msg_{each['job_id']}", "msg_0")
            ],
        )
        tx.execute(insert(schema.job_metadata), rows["labels"])
        tx.execute(insert(schema.attempts), rows["attempts"])
        tx.execute(insert(schema.usage_rollup), usage_rollup(key_ids))
        in_progress = {"api_key_id": key_ids[0], "process_id": "api_1", "since": NOW}
        undelivered = [
            {**in_progress, "job_id": each, "body_sha256": f"{number:064x}", "request_id": f"req_{number}"}
            for number, each in enumerate(by_status[Status.COMPLETED][:2_000])
        ]
        tx.execute(insert(schema.undelivered_creates), undelivered)
        tx.execute(insert(schema.api_processes), [{"id": "api_1", "heartbeat_at": NOW}])
        fill_webhooks(tx, key_ids, by_status, worker_ids, chance)
    with database.read(within=float("inf")) as tx:
        tx.execute(text("ANALYZE" if database.is_sqlite else "VACUUM ANALYZE"))
    return World(database, key_ids[0], by_status, worker_ids[-1])


def usage_rollup(key_ids: list[str]) -> list[dict[str, Any]]:
    """Return the sums of a year's days."""
    days = [NOW.date() - timedelta(days=400 + number) for number in range(365)]
    return [
        {"api_key_id": key_id, "day": day, "model": MODEL, "outcome": Outcome.COMPLETED, **dict.fromkeys(SUMS, 3)}
        for key_id in key_ids
        for day in days
    ]


def fill_webhooks(
    tx: Connection, key_ids: list[str], by_status: dict[Status, list[str]], worker_ids: list[str], chance: Random
) -> None:
    """Fill in the deliveries of thirty days for each key's endpoint, few of them open."""
    hooks, named, events, made, sent = [], [], [], [], []
    plain = {"name": "hook", "url": "https://a/", "event_types": ["response.completed"], "secret": "s"}
    for number, key_id in enumerate(key_ids):
        hook = {"id": f"we_{number:032x}", "api_key_id": key_id, "target": f"{key_id} https://a:443", **plain}
        off = {"disabled_at": NOW if number == 1 else None, "disabled_for": "gone" if number == 1 else None}
        hooks.append({**hook, **off, "job_id": None, "created_at": NOW, "updated_at": NOW})
    for number, job_id in enumerate(by_status[Status.COMPLETED][:4_000]):
        named.append(
            {**hooks[0], "id": f"we_f{number:031x}", "job_id": job_id, "target": f"{key_ids[0]} https://b:443"}
        )
    for number in range(JOBS):
        at = NOW - timedelta(days=30) * (1 - number / JOBS)
        stamp = f"{int(at.timestamp() * 1000):012x}{number:020x}"
        which = number % len(key_ids)
        state = chance.choices(["delivered", "failed", "pending", "sending"], [95, 2, 2, 1])[0]
        closed = {"ended_at": at if state in ("delivered", "failed") else None, "status": state}
        event = {"id": f"evt_{stamp}", "api_key_id": key_ids[which], "job_id": f"resp_{stamp}", "payload": "{}"}
        events.append({**event, "type": "response.completed", "created_at": at})
        made.append(
            {
                "id": f"whd_{stamp}",
                "event_id": f"evt_{stamp}",
                "endpoint_id": hooks[which]["id"],
                "api_key_id": key_ids[which],
                "target": hooks[which]["target"],
                "is_test": False,
                "created_at": at,
                "available_at": NOW + timedelta(hours=chance.choice([-1, 1])),
                "worker_id": chance.choice(worker_ids) if state == "sending" else None,
                "attempts": 1,
                **closed,
            }
        )
        sent.append({"delivery_id": f"whd_{stamp}", "number": 1, "started_at": at})
    tx.execute(insert(schema.webhook_endpoints), [*hooks, *named])
    tx.execute(insert(schema.webhook_events), events)
    tx.execute(insert(schema.webhook_deliveries), made)
    tx.execute(insert(schema.webhook_delivery_attempts), sent)
