"""The task of every peer, and the commands that a benchmark gives to a peer.

Each job is one real call of the provider. Its text and usage go into a row. A peer is a program of its own, with the
addresses in its environment: `python -m benchmarks.peers.NAME setup`, then `... enqueue COUNT PROMPT`.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import httpx
from sqlalchemy import JSON, Column, DateTime, MetaData, Table, Text, create_engine, func

from tests.support.stack import MODEL, PROVIDER_KEY

DATABASE_URL: Final = os.environ.get("DATABASE_URL", "")
BROKER_URL: Final = os.environ.get("BROKER_URL", "")
CONCURRENCY: Final = int(os.environ.get("CONCURRENCY", "100"))
CONNECTIONS: Final = min(CONCURRENCY, 20)
"""Connections to PostgreSQL: more than two cores can use, and few enough for the server."""

RESPONSES: Final = os.environ.get("PROVIDER_URL", "") + "/v1/responses"
HTTP: Final[dict[str, Any]] = {
    "headers": {"authorization": f"Bearer {PROVIDER_KEY}"},
    "timeout": 600,
    "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None),
}
"""Arguments of the one client that all calls of a process share, as httpx recommends."""

METADATA: Final = MetaData()
RESULTS: Final = Table(
    "results",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("text", Text, nullable=False),
    Column("usage", JSON, nullable=False),
    Column("finished_at", DateTime(timezone=True), server_default=func.clock_timestamp(), nullable=False),
)

Job = tuple[str, str]
"""A name and a prompt."""

Put = Callable[[Sequence[Job]], None]
"""Enqueues jobs by the fastest call that the peer documents. On return they are as durable as the peer makes them."""


def request(job: Job) -> dict[str, Any]:
    """Return the arguments of `httpx.post` for a job's call."""
    name, prompt = job
    return {"json": {"model": MODEL, "input": prompt}, "headers": {"x-client-request-id": f"{name}:1"}}


def result(job: Job, answer: httpx.Response) -> dict[str, Any]:
    """Return the row for an answer."""
    body = answer.raise_for_status().json()
    parts = [part for item in body["output"] for part in item.get("content") or ()]
    text = "".join(part.get("text", "") for part in parts)
    return {"name": job[0], "text": text, "usage": body["usage"]}


def create_tables() -> None:
    """Create the table of results."""
    engine = create_engine(DATABASE_URL)
    METADATA.create_all(engine)
    engine.dispose()


def main(setup: Callable[[], None], queue: Callable[[], AbstractContextManager[Put]]) -> None:
    """Run the command in the arguments. `--every` enqueues one job at a time and prints when each was accepted."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup")
    enqueue = commands.add_parser("enqueue")
    enqueue.add_argument("count", type=int)
    enqueue.add_argument("prompt")
    enqueue.add_argument("--every", type=float, default=0.0, metavar="SECONDS")
    arguments = parser.parse_args()
    if arguments.command == "setup":
        setup()
        return
    prefix = f"{time.time_ns():x}"
    jobs = [(f"{prefix}-{number}", arguments.prompt) for number in range(arguments.count)]
    with queue() as put:
        if arguments.every:
            for job in jobs:
                put([job])
                print(json.dumps({"name": job[0], "accepted_at": time.time()}), flush=True)
                time.sleep(arguments.every)
        else:
            for batch in _batches(jobs):
                put(batch)


def _batches(jobs: Sequence[Job], size: int = 1000) -> Iterator[Sequence[Job]]:
    return (jobs[start : start + size] for start in range(0, len(jobs), size))
