"""Whether anything grows under an hour of steady load: `python -m benchmarks.soak --minutes 60 --rate 20`.

Starts everything itself. Clients do all there is to do (`visits.py`), so many responses a second, and every minute a
line tells what each process holds and how many rows there are where none should pile up. Ended responses are erased
before the warm-up is over (a sixth of the time), so that the tables have to come to rest as well. At the end the
medians of the sixth after the warm-up stand beside those of the last one.

It measures no speed and uses little of the machine. A visit that does not end as it must is told and counted.
"""

import argparse
import asyncio
import statistics
import time
from collections import Counter, defaultdict
from random import Random
from typing import Final

import aiohttp
import psutil
from rich.console import Console
from sqlalchemy import func, select, text

from benchmarks import page
from benchmarks.hooks import ENVIRONMENT, Receivers, receivers
from benchmarks.report import Figure, Report, Role
from benchmarks.stage import Stage, resident_bytes, stage
from benchmarks.visits import SHARES, Visit, Visitor
from jobs.encryption import generate_key
from jobs.store import schema
from jobs.store.database import Database
from tests.support.stack import API_KEY, Process, Stack
from tests.support.waiting import await_until

MB: Final = 1024 * 1024
RECEIVERS: Final = 4
HOUR: Final = 60
PARTS: Final = 6
"""The first of so many parts warms up; the second is compared with the last."""
TABLES: Final = (
    *(schema.jobs, schema.answers, schema.stream_events, schema.job_metadata, schema.idempotency_keys),
    *(schema.undelivered_creates, schema.api_processes, schema.workers, schema.provider_limits, schema.leases),
    *(schema.webhook_endpoints, schema.webhook_events, schema.webhook_deliveries, schema.webhook_delivery_attempts),
)
MEMORY = (Figure("MB at last"), Figure("MB at first"), Figure("KB per 1,000 jobs"))
COUNTS = (Figure("at last", 0), Figure("at first", 0))


def main() -> None:
    """Run for as long as is said and print the tables; those of an hour are kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=HOUR)
    parser.add_argument("--rate", type=float, default=20, help="responses a second")
    arguments = parser.parse_args()
    console = Console(width=140)
    with stage() as servers:
        reports = measure(servers, arguments.minutes, arguments.rate)
    for report in reports:
        report.show(console)
        if arguments.minutes >= HOUR:
            report.save()
    if arguments.minutes >= HOUR:
        page.write()


def measure(servers: Stage, minutes: float, rate: float) -> list[Report]:
    """What the processes hold, and how many files, threads, keys and rows there are."""
    environment = {
        **ENVIRONMENT,
        "BACKBURNER_ENCRYPTION_KEYS": generate_key(),
        "BACKBURNER_RETENTION_DAYS": str(minutes / PARTS / 2 / 1440),
    }
    with servers.stack(environment) as stack, receivers(RECEIVERS) as hooks:
        stack.tell(ledger_limit=1000, bodies_limit=0)  # what the provider itself keeps is not ours to measure
        watch = _Watch(servers, stack)
        load = asyncio.run(_visit(stack, hooks, minutes * 60, rate, watch))
        await_until(lambda: watch.open_jobs() == 0, 60, "some responses never ended")
        watch.close()
    failed = ", ".join(f"{name} {count}" for name, count in load.failures.items()) or "none"
    title = f"{minutes:.0f} minutes of {rate:.0f} visits a second"
    memory, counts = Report("soak", title, MEMORY), Report("soak_counts", f"{title}: what must not pile up", COUNTS)
    memory.note(f"{load.ended:,} visits made {watch.jobs[-1]:,.0f} responses; not as they must be: {failed}")
    memory.note("PostgreSQL holds the ledger of attempts, which is kept for ever")
    for name, at_first, at_last, slope in watch.findings():
        if name.endswith(" MB"):
            values = dict(zip((each.name for each in MEMORY), (at_last, at_first, slope * MB / 1024), strict=True))
            memory.add(name.removesuffix(" MB"), Role.OURS, values)
        else:
            counts.add(name, Role.OURS, dict(zip((each.name for each in COUNTS), (at_last, at_first), strict=True)))
    return [memory, counts]


class _Load:
    """How many visits there were, and which of them failed."""

    def __init__(self) -> None:
        self.ended = 0
        self.failures: Counter[str] = Counter()

    async def make(self, visit: Visit, visitor: Visitor) -> None:
        """One visit to its end."""
        try:
            await visit(visitor)
        except Exception as error:  # noqa: BLE001  # the others go on; it is told at once
            self.failures[visit.__name__] += 1
            print(f"{time.strftime('%H:%M:%S')} {visit.__name__}: {error!r}"[:1000], flush=True)
        self.ended += 1


class _Watch:
    """What there was at each look."""

    def __init__(self, servers: Stage, stack: Stack) -> None:
        self.jobs: list[float] = []
        """How many responses there had been."""
        self._series: defaultdict[str, list[float]] = defaultdict(list)
        self._ours: dict[str, Process] = {"API": stack.api, "worker": stack.worker_processes[0]}
        self._processes: dict[str, Process | int] = {**self._ours, "Valkey": servers.valkey.pid}
        self._valkey = servers.valkey.client()
        self._database = Database(stack.database_url, pool_size=1)

    def look(self, jobs: int) -> None:
        """Take note, and print a line."""
        now: dict[str, float] = {f"{name} MB": resident_bytes([it]) / MB for name, it in self._processes.items()}
        for name, process in self._ours.items():
            it = psutil.Process(process.popen.pid)
            now |= {f"{name} files": it.num_fds(), f"{name} threads": it.num_threads()}
        now["Valkey keys"] = float(self._valkey.dbsize())
        now["open jobs"] = self.open_jobs()
        with self._database.read() as tx:
            now["PostgreSQL MB"] = tx.execute(text("SELECT pg_database_size(current_database())")).scalar_one() / MB
            for table in TABLES:
                now[table.name] = tx.execute(select(func.count()).select_from(table)).scalar_one()
        self.jobs.append(jobs)
        for name, value in now.items():
            self._series[name].append(value)
        told = " ".join(
            f"{name.replace(' ', '_')}={value:.{1 if name.endswith('MB') else 0}f}" for name, value in now.items()
        )
        print(f"{time.strftime('%H:%M:%S')} jobs={jobs} {told}", flush=True)

    def open_jobs(self) -> int:
        """How many are queued or run."""
        with self._database.read() as tx:
            is_open = schema.jobs.c.completed_at.is_(None)
            return tx.execute(select(func.count()).select_from(schema.jobs).where(is_open)).scalar_one()

    def findings(self) -> list[tuple[str, float, float, float]]:
        """Of each thing its medians after the warm-up and at the last, and how it grew with 1,000 jobs."""
        part = len(self.jobs) // PARTS
        thousands = [each / 1000 for each in self.jobs[part:]]
        return [
            (
                name,
                statistics.median(values[part : 2 * part]),
                statistics.median(values[-part:]),
                statistics.linear_regression(thousands, values[part:]).slope,
            )
            for name, values in self._series.items()
        ]

    def close(self) -> None:
        """Let go of the servers."""
        self._valkey.close()
        self._database.close()


async def _visit(stack: Stack, hooks: Receivers, seconds: float, rate: float, watch: _Watch) -> _Load:
    """Begin visits at an even pace, however long each takes, and see all of them end."""
    load = _Load()
    loop = asyncio.get_running_loop()
    deck = [visit for visit, share in SHARES.items() for _ in range(share)]
    chance = Random(6)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers={"authorization": f"Bearer {API_KEY}"}
    ) as http:
        visitor = Visitor(http, stack.base_url, hooks.urls, chance)
        running: set[asyncio.Task[None]] = set()
        begun, looks, pause = loop.time(), 0, min(60.0, seconds / PARTS / 3)
        for number in range(int(seconds * rate)):
            await asyncio.sleep(begun + number / rate - loop.time())
            if number % len(deck) == 0:
                chance.shuffle(deck)
            running.add(task := asyncio.create_task(load.make(deck[number % len(deck)], visitor)))
            task.add_done_callback(running.discard)
            if number / rate >= (looks + 1) * pause:
                looks += 1
                await asyncio.to_thread(watch.look, visitor.number)
        await asyncio.gather(*running)
        await asyncio.to_thread(watch.look, visitor.number)
    return load


if __name__ == "__main__":
    main()
