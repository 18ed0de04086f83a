"""Delay of webhooks to good endpoints while half of all endpoints hang, when 1,000 responses end at once.

Measured is the time from a response's end, as recorded with its event, until a good endpoint has the event. One API
process ends responses more slowly than one worker process delivers. The rate of deliveries is therefore measured in a
second report, in which all responses have ended before the worker starts.
"""

import asyncio
import json
import time

import httpx
from sqlalchemy import select

from benchmarks.endpoints import ENVIRONMENT, Endpoints, endpoints
from benchmarks.load import AUTHORIZED, request, send_all
from benchmarks.report import Figure, Report, Role, percentile
from benchmarks.stage import Run, stage
from jobs.encryption import generate_key
from jobs.store import schema
from jobs.store.database import Database
from tests.support.stack import MODEL, Stack

ENDPOINTS = 20
CLIENTS = 8
CONNECTIONS = 64
P99 = Figure("p99 ms", digits=0)
P50 = Figure("p50 ms", digits=0)
RATE = Figure("delivered/s", digits=0)
ENDED = Figure("ended/s", digits=0)


def measure(run: Run) -> list[Report]:
    count = run.scaled(1000, 100)
    title = f"{count} webhooks as fast as responses end, {ENDPOINTS} endpoints"
    report = Report("deliveries", title, (P99, P50, RATE, ENDED))
    backlog = Report("deliveries_backlog", f"{count} webhooks that wait for a worker, {ENDPOINTS} endpoints", (RATE,))
    with stage() as servers:
        for _ in range(run.rounds):
            for name, hanging in (("half of them hanging", ENDPOINTS // 2), ("none hanging", 0)):
                environment = {**ENVIRONMENT, "BACKBURNER_ENCRYPTION_KEYS": generate_key()}
                expected = sum(number % ENDPOINTS < ENDPOINTS - hanging for number in range(count))
                with servers.stack(environment) as stack, endpoints(ENDPOINTS - hanging, hanging) as targets:
                    _end(stack, targets, ENDPOINTS)  # warm up: Celery takes messages only a second after /readyz is ok
                    earlier = targets.await_count(ENDPOINTS - hanging)
                    ended = {ENDED.name: _end(stack, targets, count)}
                    arrived = targets.await_count(expected + len(earlier))
                    arrivals = {event_id: at for event_id, at in arrived.items() if event_id not in earlier}
                    report.add(f"Backburner, {name}", Role.OURS, _figures(arrivals, _ends(stack)) | ended)
                with (
                    servers.stack(environment, workers=0) as stack,
                    endpoints(ENDPOINTS - hanging, hanging) as targets,
                ):
                    _end(stack, targets, count)
                    stack.start_worker()
                    rate = {RATE.name: _rate(targets.await_count(expected))}
                    backlog.add(f"Backburner, {name}", Role.OURS, rate)
            with endpoints(ENDPOINTS) as targets:
                bare = asyncio.run(_bare(targets, count))
                report.add(f"httpx, {CONNECTIONS} kept connections", Role.LIMIT, bare)
                backlog.add(f"httpx, {CONNECTIONS} kept connections", Role.LIMIT, {RATE.name: bare[RATE.name]})
    return [report, backlog]


def _end(stack: Stack, targets: Endpoints, count: int) -> float:
    """Create and cancel `count` responses with webhooks; return how many ended per second."""
    url = f"{stack.base_url}/responses"
    bodies = (_body(targets.urls[number % ENDPOINTS]) for number in range(count))
    creates = (request("POST", url, AUTHORIZED, body) for body in bodies)
    created = send_all(url, creates, clients=CLIENTS).bodies
    cancels = (request("POST", f"{url}/{json.loads(body)['id']}/cancel", AUTHORIZED) for body in created)
    return send_all(url, cancels, clients=CLIENTS).rate


def _body(url: str) -> bytes:
    """Return the body of a response that waits until tomorrow, so that no call is made."""
    body = {"model": MODEL, "input": "x", "background": True, "webhook": {"url": url}}
    return json.dumps(body | {"run_at": int(time.time()) + 86_400, "deadline_seconds": 2 * 86_400}).encode()


def _ends(stack: Stack) -> dict[str, float]:
    database = Database(stack.database_url, pool_size=1)
    row = schema.webhook_events.c
    with database.read() as tx:
        found = {each.id: each.created_at.timestamp() for each in tx.execute(select(row.id, row.created_at))}
    database.close()
    return found


async def _bare(targets: Endpoints, count: int) -> dict[str, float]:
    """Deliver in a plain loop, without rows, signatures or checks of the URL."""
    sent: dict[str, float] = {}
    numbers = iter(range(count))

    async def post(http: httpx.AsyncClient) -> None:
        for number in numbers:
            event_id = f"evt_{number}"
            sent[event_id] = time.time()
            await http.post(targets.urls[number % ENDPOINTS], headers={"webhook-id": event_id}, json={"id": event_id})

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=CONNECTIONS)) as http:
        await asyncio.gather(*(post(http) for _ in range(CONNECTIONS)))
    return _figures(targets.await_count(count), sent)


def _figures(arrivals: dict[str, float], ended: dict[str, float]) -> dict[str, float]:
    delays = [(arrived_at - ended[event_id]) * 1000 for event_id, arrived_at in arrivals.items()]
    return {P99.name: percentile(delays, 99), P50.name: percentile(delays, 50), RATE.name: _rate(arrivals)}


def _rate(arrivals: dict[str, float]) -> float:
    """Return the arrivals per second, from the first to the last."""
    return (len(arrivals) - 1) / (max(arrivals.values()) - min(arrivals.values()))
