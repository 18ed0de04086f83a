"""How late good receivers hear while others hang: `python -m benchmarks.deliveries`.

Starts everything itself: PostgreSQL, Valkey, an API and a worker with default settings. Half of the receivers never
answer. Measured is the time from a response's end, as its event's row has it, until a good receiver has the event.
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
from sqlalchemy import select

from jobs.sealing import generate_key
from jobs.store import tables
from jobs.store.database import Database
from tests.support.postgres import Databases, PostgresServer
from tests.support.receiver import Answer, Receiver
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

OPENED = {"BACKBURNER_WEBHOOK_ALLOW_HTTP": "true", "BACKBURNER_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deliveries", type=int, default=1000)
    parser.add_argument("--receivers", type=int, default=20, help="half of them hang")
    parser.add_argument("--rate", type=float, default=25, help="responses that end per second")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        PostgresServer() as postgres,
        ValkeyServer() as valkey,
    ):
        url = Databases(postgres.url).migrated()
        environment = {**OPENED, "BACKBURNER_ENCRYPTION_KEYS": generate_key()}
        with Stack(url, valkey.url, Path(directory), environment) as stack:
            measure(stack, url, arguments.deliveries, arguments.receivers, arguments.rate)


def measure(stack: Stack, url: str, deliveries: int, receivers: int, rate: float) -> None:
    with ExitStack() as exits:
        good = [exits.enter_context(Receiver()) for _ in range(receivers // 2)]
        hanging = [exits.enter_context(Receiver(lambda _: Answer(hang=600))) for _ in range(receivers // 2)]
        targets = [each.url for each in (*good, *hanging)]
        http = exits.enter_context(stack.http())
        with ThreadPoolExecutor(8) as threads:
            jobs = list(threads.map(lambda number: submit(http, targets[number % receivers]), range(deliveries)))
            started_at = time.monotonic()
            ending = []
            for number, job_id in enumerate(jobs):
                time.sleep(max(0.0, started_at + number / rate - time.monotonic()))
                ending.append(threads.submit(cancel, http, job_id))
            for each in ending:
                each.result()
            reached = deliveries / (time.monotonic() - started_at)
        wanted = sum(number % receivers < receivers // 2 for number in range(deliveries))
        await_until(lambda: sum(len(each.delivered) for each in good) >= wanted, 120, stack.logs)
        ended_at = moments(url)
        late = sorted(came.at - ended_at[came.id] for each in good for came in each.delivered)
        held = sum(len(each.delivered) for each in hanging)
    print(
        f"{deliveries} responses end, {reached:.0f} a second; half of {receivers} receivers hang ({held} requests held)"
    )
    for share in (50, 90, 99):
        print(f"p{share} {late[len(late) * share // 100 - 1] * 1000:.0f} ms")
    print(f"slowest {late[-1] * 1000:.0f} ms")


def submit(http: httpx.Client, url: str) -> str:
    """A response that waits until tomorrow, so that no call takes part."""
    body = {"model": "openai/o3-pro", "input": "x", "background": True, "webhook": {"url": url}}
    body |= {"run_at": time.time() + 86_400, "deadline_seconds": 2 * 86_400}
    return str(http.post("/responses", json=body).raise_for_status().json()["id"])


def cancel(http: httpx.Client, job_id: str) -> None:
    http.post(f"/responses/{job_id}/cancel").raise_for_status()


def moments(url: str) -> dict[str, float]:
    database = Database(url, pool_size=1)
    row = tables.webhook_events.c
    with database.read() as tx:
        found = {each.id: each.created_at.timestamp() for each in tx.execute(select(row.id, row.created_at))}
    database.close()
    return found


if __name__ == "__main__":
    main()
