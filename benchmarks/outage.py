"""A provider outage over 200 responses: what fails, what is billed, and how soon all is done after its return.

`python -m benchmarks.outage [--minutes M] [--rounds N] [--transport T] [KIND ...]` prints the median of the rounds for
each kind, and the worst round of failures and bills. All rounds run at the same time, each on servers of its own.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from sqlalchemy import func, select

from benchmarks.stage import Stage, stage
from jobs.store import schema
from jobs.store.database import Database
from tests.support import outages
from tests.support.outages import Outage, OutageStack
from tests.support.valkey import ValkeyServer

JOBS: Final = 200
MAX_WAIT_SECONDS: Final = 300.0
STAGGER: Final = 10.0
"""Seconds between the starts of two rounds, so that their ends do not coincide."""
KINDS: Final[Mapping[str, type[Outage]]] = {
    "refused": outages.Refused,
    "503": outages.Unavailable,
    "429": outages.Limited,
    "dns": outages.Nameless,
    "tls": outages.Expired,
    "half": outages.HalfRefused,
}
FAILED, LEFT, BILLED = "failed", "never ended", "billed"
BEFORE, PROBES, CALLS, TOOK = "calls before the pause", "probes", "calls in all", "seconds until all were done"
WORST: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {FAILED: max, LEFT: max, BILLED: max}


def main() -> None:
    """Print a table with a row for each kind of outage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--minutes", type=float, default=2, help="length of the outage")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transport", choices=["plain", "stream", "background"], default="plain")
    chosen = parser.parse_args()
    kinds = chosen.kinds or list(KINDS)
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"there is no kind called {', '.join(sorted(unknown))}; choose from {', '.join(KINDS)}")
    rounds = [kind for _ in range(chosen.rounds) for kind in kinds]
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with stage() as servers, ThreadPoolExecutor(len(rounds)) as pool:
        running = [
            (kind, pool.submit(_round, servers, kind, chosen.minutes * 60, chosen.transport, number * STAGGER))
            for number, kind in enumerate(rounds)
        ]
        for kind, each in running:
            found[kind].append(each.result())
    titles = list(found[kinds[0]][0])
    print(f"{chosen.minutes:g} min, {JOBS} responses, {chosen.transport}, medians of {chosen.rounds}", flush=True)
    print("| |", " | ".join(titles), "|")
    print("| --- |", " | ".join(["---:"] * len(titles)), "|")
    for kind in kinds:
        row = (WORST.get(title, statistics.median)([each[title] for each in found[kind]]) for title in titles)
        print(f"| {kind} |", " | ".join(f"{value:g}" for value in row), "|")


def _round(servers: Stage, kind: str, seconds: float, transport: str, after: float) -> dict[str, float]:
    time.sleep(after)
    environment = {
        "BACKBURNER_PROVIDER_TRANSPORT": transport,
        "BACKBURNER_RETRY_BASE_SECONDS": "2",  # the default; the tests' stack sets less
    }
    url = servers.databases.migrated()
    with ValkeyServer() as valkey, tempfile.TemporaryDirectory(dir=servers.directory) as folder:
        stack = OutageStack(url, valkey.url, Path(folder), environment)
        stack.way = KINDS[kind]
        with stack:
            stack.set_provider(native_background=transport == "background")
            found = _measure(stack, seconds, goes_on=kind == "half")
    print(f"{kind}:", ", ".join(f"{title} {value:g}" for title, value in found.items()), flush=True)
    return found


def _measure(stack: OutageStack, seconds: float, *, goes_on: bool) -> dict[str, float]:
    """Submit during an outage and wait for all; count from its end after `seconds`, or at once if it `goes_on`."""
    stack.outage.begin()
    began_at = time.monotonic()
    stack.submit_many(JOBS, "Hello")
    if not goes_on:
        stack.worker_processes[0].match(r"provider paused")
        time.sleep(max(0.0, seconds - (time.monotonic() - began_at)))
    before, probes, _ = _calls(stack)
    if not goes_on:
        stack.outage.end()
        began_at = time.monotonic()
    while (left := _open(stack)) and time.monotonic() - began_at < MAX_WAIT_SECONDS:
        time.sleep(0.2)
    took = round(time.monotonic() - began_at, 1)
    return {
        FAILED: _page(stack, "failed"),
        LEFT: left,
        BILLED: sum(call["http_status"] == 200 for call in stack.calls()),
        BEFORE: before,
        PROBES: probes,
        CALLS: _calls(stack)[2],
        TOOK: took,
    }


def _open(stack: OutageStack) -> int:
    """Count the responses that have not ended. Pages are listed, as polling each response would be load."""
    return _page(stack, "queued") + _page(stack, "in_progress")


def _page(stack: OutageStack, status: str) -> int:
    """Count the responses in this status, up to one page of 100."""
    with stack.http() as http:
        return len(http.get("/responses", params={"status": status, "limit": "100"}).json()["data"])


def _calls(stack: OutageStack) -> tuple[int, int, int]:
    """Count the calls sent before the provider was paused, those after it, and all."""
    database = Database(stack.database_url)
    row = schema.attempts.c
    count = select(func.count()).select_from(schema.attempts)
    paused_at = select(schema.provider_limits.c.paused_at).scalar_subquery()
    with database.read() as tx:
        before = tx.execute(count.where(row.started_at <= paused_at)).scalar_one()
        after = tx.execute(count.where(row.started_at > paused_at)).scalar_one()
        total = tx.execute(count).scalar_one()
    database.close()
    return before, after, total


if __name__ == "__main__":
    main()
