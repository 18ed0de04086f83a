"""A provider that goes away over 200 responses and comes back: what fails, what is bought, and how soon all is done.

`python -m benchmarks.outage [MINUTES]`; once with connections that are refused and once with 503 for every call.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import func, select

from benchmarks.stage import stage
from jobs.store import tables
from jobs.store.database import Database
from tests.support.gated import GatedStack

JOBS = 200
PATIENCE = 300.0

Door = Callable[[GatedStack], Any]
WAYS: dict[str, tuple[Door, Door]] = {
    "connection refused": (lambda stack: stack.gate.shut(), lambda stack: stack.gate.open()),
    "503": (lambda stack: stack.tell(script="503"), lambda stack: stack.tell(script="full")),
}


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description=__doc__)
    parser.add_argument("minutes", nargs="?", type=float, default=2, help="how long the provider is away")
    minutes: float = parser.parse_args().minutes
    with stage() as servers:
        for name, (begin, end) in WAYS.items():
            url = servers.databases.migrated()
            servers.valkey.flush()
            folder = servers.directory / name.replace(" ", "-")
            folder.mkdir()
            environment = {"BACKBURNER_RETRY_BASE_SECONDS": "2"}
            with GatedStack(url, servers.valkey.url, folder, environment) as stack, stack.gate:
                found = _measure(stack, minutes * 60, begin, end)
            print(f"{name}, {minutes:g} min, {JOBS} responses:", ", ".join(f"{k} {v}" for k, v in found.items()))


def _measure(stack: GatedStack, seconds: float, begin: Door, end: Door) -> dict[str, float]:
    begin(stack)
    began_at = time.monotonic()
    jobs = stack.submit_many(JOBS, "Hello")
    stack.worker_processes[0].match(r"lane closed")
    time.sleep(max(0.0, seconds - (time.monotonic() - began_at)))
    before, probes = _calls(stack)
    end(stack)
    ended_at = time.monotonic()
    left = set(jobs)
    failed = 0
    with stack.http() as http:
        while left and time.monotonic() - ended_at < PATIENCE:
            for job in sorted(left):
                status = http.get(f"/responses/{job}").json()["status"]
                if status not in {"queued", "in_progress"}:
                    left.remove(job)
                    failed += status != "completed"
            time.sleep(0.2)
    return {
        "failed": failed,
        "never ended": len(left),
        "purchases": sum(call["http_status"] == 200 for call in stack.calls()),
        "calls before the pause": before,
        "calls after it": probes,
        "seconds until all were done": round(time.monotonic() - ended_at, 1),
    }


def _calls(stack: GatedStack) -> tuple[int, int]:
    """Those that went out before the provider was paused, and those after it."""
    database = Database(stack.database_url)
    row = tables.attempts.c
    closed_at = select(tables.lanes.c.closed_at).scalar_subquery()
    with database.read() as tx:
        before = tx.execute(select(func.count()).where(row.started_at <= closed_at)).scalar_one()
        after = tx.execute(select(func.count()).where(row.started_at > closed_at)).scalar_one()
    database.close()
    return before, after


if __name__ == "__main__":
    main()
