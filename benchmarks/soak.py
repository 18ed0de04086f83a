"""Growth under an hour of steady load: `python -m benchmarks.soak --minutes 60 --rate 20`.

It starts everything itself. Clients use every feature (`visits.py`), `--rate` responses a second. Every minute a line
shows the memory of each process and the numbers of rows that must not pile up. Ended responses are erased before the
warm-up is over (a sixth of the time), so that the tables have to level off as well. At the end the medians of the sixth
after the warm-up are compared with those of the last sixth.

It measures no speed and uses little of the machine. A visit that fails is printed and counted.
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
from benchmarks.endpoints import ENVIRONMENT, Endpoints, endpoints
from benchmarks.load import AUTHORIZED
from benchmarks.report import Figure, Report, Role
from benchmarks.stage import Stage, resident_bytes, stage
from benchmarks.visits import SHARES, Visit, Visitor
from jobs.encryption import generate_key
from jobs.store import schema
from jobs.store.database import Database
from tests.support.stack import Process, Stack
from tests.support.waiting import await_until

MB: Final = 1024 * 1024
ENDPOINTS: Final = 4
HOUR: Final = 60
PARTS: Final = 6
"""Parts of the run. The first is the warm-up; the second is compared with the last."""
TABLES: Final = (
    *(schema.jobs, schema.answers, schema.stream_events, schema.job_metadata, schema.idempotency_keys),
    *(schema.undelivered_creates, schema.api_processes, schema.workers, schema.provider_limits, schema.leases),
    *(schema.webhook_endpoints, schema.webhook_events, schema.webhook_deliveries, schema.webhook_delivery_attempts),
)
MEMORY = (Figure("MB at last"), Figure("MB at first"), Figure("KB per 1,000 jobs"))
COUNTS = (Figure("at last", 0), Figure("at first", 0))


def main() -> None:
    """Run and print the tables. Those of at least an hour are saved."""
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
    """Measure the memory of the processes, and the numbers of files, threads, keys and rows."""
    environment = {
        **ENVIRONMENT,
        "BACKBURNER_ENCRYPTION_KEYS": generate_key(),
        "BACKBURNER_RETENTION_DAYS": str(minutes / PARTS / 2 / 1440),
    }
    with servers.stack(environment) as stack, endpoints(ENDPOINTS) as targets:
        stack.set_provider(ledger_limit=1000, bodies_limit=0)  # limit the simulator's own memory, which is not measured
        watch = _Watch(servers, stack)
        load = asyncio.run(_visit(stack, targets, minutes * 60, rate, watch))
        await_until(lambda: watch.open_jobs() == 0, 60, "some responses did not end")
        watch.close()
    failed = ", ".join(f"{name} {count}" for name, count in load.failures.items()) or "none"
    title = f"{minutes:.0f} minutes of {rate:.0f} visits a second"
    memory, counts = (
        Report("soak", title, MEMORY),
        Report("soak_counts", f"{title}: what must not grow", COUNTS),
    )
    memory.note(f"{load.ended:,} visits made {watch.jobs[-1]:,.0f} responses; failed visits: {failed}")
    memory.note("PostgreSQL keeps all attempts of the run")
    for name, at_first, at_last, slope in watch.results():
        if name.endswith(" MB"):
            values = dict(zip((each.name for each in MEMORY), (at_last, at_first, slope * MB / 1024), strict=True))
            memory.add(name.removesuffix(" MB"), Role.OURS, values)
        else:
            counts.add(name, Role.OURS, dict(zip((each.name for each in COUNTS), (at_last, at_first), strict=True)))
    return [memory, counts]


class _Load:
    """Counts of ended visits, and of failures by the name of the visit."""

    def __init__(self) -> None:
        self.ended = 0
        self.failures: Counter[str] = Counter()

    async def make(self, visit: Visit, visitor: Visitor) -> None:
        """Make a visit; print and count its failure."""
        try:
            await visit(visitor)
        except Exception as error:  # noqa: BLE001  # the other visits go on
            self.failures[visit.__name__] += 1
            print(f"{time.strftime('%H:%M:%S')} {visit.__name__}: {error!r}"[:1000], flush=True)
        self.ended += 1


class _Watch:
    """Samples of memory and counts, taken every minute."""

    def __init__(self, servers: Stage, stack: Stack) -> None:
        self.jobs: list[float] = []
        """Responses created until each sample."""
        self._series: defaultdict[str, list[float]] = defaultdict(list)
        self._ours: dict[str, Process] = {"API": stack.api, "worker": stack.worker_processes[0]}
        self._processes: dict[str, Process | int] = {**self._ours, "Valkey": servers.valkey.pid}
        self._valkey = servers.valkey.client()
        self._database = Database(stack.database_url, pool_size=1)

    def sample(self, jobs: int) -> None:
        """Take a sample and print it as a line."""
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
        line = " ".join(
            f"{name.replace(' ', '_')}={value:.{1 if name.endswith('MB') else 0}f}" for name, value in now.items()
        )
        print(f"{time.strftime('%H:%M:%S')} jobs={jobs} {line}", flush=True)

    def open_jobs(self) -> int:
        """Count the jobs that have not ended."""
        with self._database.read() as tx:
            is_open = schema.jobs.c.completed_at.is_(None)
            return tx.execute(select(func.count()).select_from(schema.jobs).where(is_open)).scalar_one()

    def results(self) -> list[tuple[str, float, float, float]]:
        """Return each series' name, medians after the warm-up and at the end, and growth per 1,000 jobs."""
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
        """Close the connections."""
        self._valkey.close()
        self._database.close()


async def _visit(stack: Stack, targets: Endpoints, seconds: float, rate: float, watch: _Watch) -> _Load:
    """Start visits at an even pace, however long each takes, and wait until all have ended."""
    load = _Load()
    loop = asyncio.get_running_loop()
    deck = [visit for visit, share in SHARES.items() for _ in range(share)]
    random = Random(6)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=AUTHORIZED) as http:
        visitor = Visitor(http, stack.base_url, targets.urls, random)
        running: set[asyncio.Task[None]] = set()
        started_at, samples, pause = loop.time(), 0, min(60.0, seconds / PARTS / 3)
        for number in range(int(seconds * rate)):
            await asyncio.sleep(started_at + number / rate - loop.time())
            if number % len(deck) == 0:
                random.shuffle(deck)
            running.add(task := asyncio.create_task(load.make(deck[number % len(deck)], visitor)))
            task.add_done_callback(running.discard)
            if number / rate >= (samples + 1) * pause:
                samples += 1
                await asyncio.to_thread(watch.sample, visitor.number)
        await asyncio.gather(*running)
        await asyncio.to_thread(watch.sample, visitor.number)
    return load


if __name__ == "__main__":
    main()
