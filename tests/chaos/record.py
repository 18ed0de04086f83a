"""The record of a run, read once everything has stopped: rows, call log, logs, connections, and each key's view."""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
from sqlalchemy import select

from jobs.outcome_files import FOLDER
from jobs.settings import Transport
from jobs.store import schema
from jobs.store.database import Database
from tests.chaos.clients import Seen
from tests.chaos.locks import Lock
from tests.chaos.proxy import Passage
from tests.chaos.refill import Refill
from tests.chaos.world import Freeze, World

Row = Mapping[str, Any]
REQUEST_ID: Final = re.compile(rb"(?im)^x-client-request-id: *(\S+)\r?$")
PAGE: Final = 100
DRAFT: Final = ".draft"  # a file that a killed worker had not written to its end
AT_ONCE: Final = timedelta(seconds=1)  # a rescuer's clock is read before it waits for the database


@dataclass
class Sight:
    """One tenant's view: the ids listed, and the number of calls in its usage."""

    key_id: str
    listed: set[str]
    calls: int


@dataclass
class Record:
    """Everything known after a run; the checks add `checked` and `figures`."""

    transport: Transport
    jobs: dict[str, Row]
    attempts: dict[str, list[Row]]
    calls: dict[str, list[dict[str, Any]]]
    workers: dict[str, Row] = field(default_factory=dict)
    deaths: dict[int, float] = field(default_factory=dict)
    passages: dict[str, Passage] = field(default_factory=dict)
    freezes: list[Freeze] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    left_files: list[str] = field(default_factory=list)
    database_away: list[tuple[float, float]] = field(default_factory=list)
    database_hurt: list[tuple[float, float]] = field(default_factory=list)  # also when single connections were silent
    broker_hurt: list[tuple[float, float]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    secrets: tuple[str, ...] = ()
    refill: Refill | None = None
    checked: Counter[int] = field(default_factory=Counter)
    figures: dict[str, Any] = field(default_factory=dict)


def collect(world: World, refill: Refill | None, transport: Transport) -> Record:
    """Stop the workers, so that nothing changes any more, and read everything."""
    world.stop_workers()
    database = Database(world.database_url)
    attempts: dict[str, list[Row]] = defaultdict(list)
    with database.read() as tx:
        jobs: dict[str, Row] = {row["id"]: dict(row) for row in tx.execute(select(schema.jobs)).mappings()}
        for row in tx.execute(select(schema.attempts).order_by(schema.attempts.c.number)).mappings():
            attempts[row["job_id"]].append(dict(row))
        workers: dict[str, Row] = {row["id"]: dict(row) for row in tx.execute(select(schema.workers)).mappings()}
    database.close()
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for call in world.calls():
        if call["client_request_id"] is not None:  # else it was cut off before its headers were through
            calls[job_of(call["client_request_id"])].append(call)
    return Record(
        transport,
        jobs,
        attempts,
        calls,
        workers,
        world.deaths,
        {_name(passage): passage for passage in world.passages()},
        world.freezes,
        world.locker.locks,
        [each.name for each in (world.data_dir / FOLDER).glob("resp_*") if each.suffix != DRAFT],
        _windows(world, "database"),
        [*_windows(world, "database"), *_silences(world, "database")],
        _windows(world, "broker"),
        world.lines(),
        [_sight(world, number) for number in range(len(world.tenants))],
        world.secrets(),
        refill,
    )


def _windows(world: World, what: str) -> list[tuple[float, float]]:
    return [(window.begun, window.ended) for window in world.windows if window.what == what]


def _silences(world: World, what: str) -> list[tuple[float, float]]:
    """Return the spans in which a process had a connection that never answered."""
    now = time.time()
    passages = world.links[what].passages
    return [(each.silent_at, each.left_at or now) for each in passages if each.silent_at is not None]


def job_of(request_id: str) -> str:
    """Return the job of a call."""
    return request_id.rpartition(":")[0]


def request_id_of(row: Row) -> str:
    """Return the request id that an attempt's call had at the provider."""
    return f"{row['job_id']}:{row['number']}"


def moment(text: str) -> datetime:
    """Return a moment of the simulator's call log."""
    return datetime.fromisoformat(text).astimezone(UTC)


def database_was_away(record: Record, begun: datetime, ended: datetime) -> timedelta:
    """Return for how many seconds of a span the database could not be reached."""
    seconds, after = 0.0, begun.timestamp()
    for since, until in sorted(record.database_away):
        if (end := min(until, ended.timestamp())) > max(since, after):
            seconds += end - max(since, after)
            after = end
    return timedelta(seconds=seconds)


def lives(record: Record, seen: Seen, job_id: str) -> list[list[Row]]:
    """Return a job's attempts, split at its client's retry."""
    rows = record.attempts.get(job_id, [])
    asked_at = seen.retried_at.get(job_id)
    if asked_at is None:
        return [rows]
    again = datetime.fromtimestamp(asked_at, UTC)
    return [[row for row in rows if row["started_at"] < again], [row for row in rows if row["started_at"] >= again]]


def was_given_up(record: Record, row: Row, before: datetime) -> bool:
    """Return whether the worker of a call had been marked dead by then."""
    worker = record.workers.get(row["worker_id"])
    return worker is not None and worker["ended_at"] is not None and worker["ended_at"] <= before


def follows_a_silent_worker(record: Record, row: Row) -> bool:
    """Return whether the worker of an earlier call of the job had been marked dead when this call began."""
    earlier = (each for each in record.attempts[row["job_id"]] if each["number"] < row["number"])
    return any(was_given_up(record, each, row["started_at"]) for each in earlier)


def logged(record: Record) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield every log line about a job, with the job's id."""
    for line in record.lines:
        if '"job_id"' in line:
            try:
                entry = json.loads(line.partition(" ")[2])
            except ValueError:  # the last words of a killed process
                continue
            yield entry, entry["job_id"]


def history(record: Record, seen: Seen, job_id: str) -> str:
    """Return everything known about one job, to find the cause of a violation."""
    rows = record.attempts.get(job_id, [])
    parts = [f"plan: {seen.acknowledged.get(job_id)}", f"seen to end: {seen.ends.get(job_id)}"]
    reported = {"revived": seen.retried_at, "deleted": seen.deleted_at, "acknowledged": seen.acknowledged_at}
    parts += [f"{what}: {_clock(moments[job_id])}" for what, moments in reported.items() if job_id in moments]
    parts.append(f"job: {dict(record.jobs[job_id])}" if job_id in record.jobs else "job: no row")
    parts += [f"attempt: {dict(row)}" for row in rows]
    parts += [f"call: {call}" for call in record.calls.get(job_id, ())]
    for row in rows:
        passage = record.passages.get(request_id_of(row))
        if passage is not None:
            moments = [f"{name} {_clock(getattr(passage, name))}" for name in ("passed_at", "left_at", "cut_at")]
            parts.append(f"connection of {row['number']}: {', '.join(moments)}")
    for worker_id in sorted({row["worker_id"] for row in rows}):
        worker = record.workers.get(worker_id)
        died_at = record.deaths.get(worker["pid"]) if worker is not None else None
        parts.append(f"worker: {None if worker is None else dict(worker)}, died {_clock(died_at)}")
    if job_id in record.jobs:
        job = record.jobs[job_id]
        since, until = job["created_at"].timestamp(), (job["completed_at"] or datetime.now(UTC)).timestamp()
        parts += [
            f"fault: {_clock(begun)} to {_clock(ended)} {name}"
            for begun, ended, name in sorted(seen.timeline)
            if begun <= until and since <= ended
        ]
    parts += [f"log: {line}" for line in record.lines if job_id in line]
    return "\n".join(parts)


def _clock(seconds: float | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _name(passage: Passage) -> str:
    found = REQUEST_ID.search(passage.head)
    return found[1].decode() if found is not None else ""


def _sight(world: World, number: int) -> Sight:
    tenant = world.tenants[number]
    base = f"{world.api_urls[0]}/v1"
    listed: set[str] = set()
    with httpx.Client(headers={"Authorization": f"Bearer {tenant.secret}"}, timeout=60) as http:
        after: dict[str, str] = {}
        while True:
            page = http.get(f"{base}/responses", params={"limit": str(PAGE), **after}).raise_for_status().json()
            listed |= {each["id"] for each in page["data"]}
            if not page["has_more"]:
                break
            after = {"after": page["data"][-1]["id"]}
        usage = http.get(f"{base}/usage").raise_for_status().json()["data"]
    return Sight(tenant.key_id, listed, sum(row["calls"] for row in usage))
