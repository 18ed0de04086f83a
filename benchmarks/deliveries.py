"""How late good receivers hear of an end while half of all receivers hang, when 1,000 responses end at once.

Measured is the time from a response's end, as its event's row has it, until a good receiver has the event. The ends
come as fast as one API process makes them, which is slower than one worker process delivers; so how fast that is,
a second report says: there all have ended before the worker starts.
"""

import asyncio
import json
import time

import httpx
from sqlalchemy import select

from benchmarks.hooks import ENVIRONMENT, Receivers, receivers
from benchmarks.load import drive, request
from benchmarks.report import Figure, Report, Role, percentile
from benchmarks.stage import Run, stage
from jobs.encryption import generate_key
from jobs.store import schema
from jobs.store.database import Database
from tests.support.stack import API_KEY, MODEL, Stack

RECEIVERS = 20
CLIENTS = 8
CONNECTIONS = 64
LATEST = Figure("p99 ms", digits=0)
MIDDLE = Figure("p50 ms", digits=0)
RATE = Figure("delivered/s", digits=0)
ENDED = Figure("ended/s", digits=0)


def measure(run: Run) -> list[Report]:
    count = run.scaled(1000, 100)
    title = f"{count} webhooks as fast as responses end, {RECEIVERS} receivers"
    report = Report("deliveries", title, (LATEST, MIDDLE, RATE, ENDED))
    backlog = Report("deliveries_backlog", f"{count} webhooks that wait for a worker, {RECEIVERS} receivers", (RATE,))
    with stage() as servers:
        for _ in range(run.rounds):
            for name, hanging in (("half of them hanging", RECEIVERS // 2), ("none hanging", 0)):
                environment = {**ENVIRONMENT, "BACKBURNER_ENCRYPTION_KEYS": generate_key()}
                wanted = sum(number % RECEIVERS < RECEIVERS - hanging for number in range(count))
                with servers.stack(environment) as stack, receivers(RECEIVERS - hanging, hanging) as hooks:
                    _end(stack, hooks, RECEIVERS)  # Celery takes messages a second after /readyz knows of it
                    earlier = hooks.await_count(RECEIVERS - hanging)
                    ended = {ENDED.name: _end(stack, hooks, count)}
                    came = hooks.await_count(wanted + len(earlier))
                    arrivals = {event_id: at for event_id, at in came.items() if event_id not in earlier}
                    report.add(f"Backburner, {name}", Role.OURS, _figures(arrivals, _ends(stack)) | ended)
                with (
                    servers.stack(environment, workers=0) as stack,
                    receivers(RECEIVERS - hanging, hanging) as hooks,
                ):
                    _end(stack, hooks, count)
                    stack.start_worker()
                    rate = {RATE.name: _rate(hooks.await_count(wanted))}
                    backlog.add(f"Backburner, {name}", Role.OURS, rate)
            with receivers(RECEIVERS) as hooks:
                bare = asyncio.run(_bare(hooks, count))
                report.add(f"httpx, {CONNECTIONS} kept connections", Role.LIMIT, bare)
                backlog.add(f"httpx, {CONNECTIONS} kept connections", Role.LIMIT, {RATE.name: bare[RATE.name]})
    return [report, backlog]


def _end(stack: Stack, hooks: Receivers, count: int) -> float:
    """Let so many responses end, each with a receiver of its own choice; how many a second."""
    url = f"{stack.base_url}/responses"
    headers = {"authorization": f"Bearer {API_KEY}"}
    bodies = (_body(hooks.urls[number % RECEIVERS]) for number in range(count))
    creates = (request("POST", url, headers, body) for body in bodies)
    made = drive(url, lambda: next(creates, None), clients=CLIENTS, keep=True)
    assert not made.refused, made.statuses
    cancels = (request("POST", f"{url}/{json.loads(body)['id']}/cancel", headers) for body in made.bodies)
    ending = drive(url, lambda: next(cancels, None), clients=CLIENTS)
    assert not ending.refused, ending.statuses
    return ending.rate


def _body(receiver: str) -> bytes:
    """A response that waits until tomorrow, so that no call takes part."""
    body = {"model": MODEL, "input": "x", "background": True, "webhook": {"url": receiver}}
    return json.dumps(body | {"run_at": int(time.time()) + 86_400, "deadline_seconds": 2 * 86_400}).encode()


def _ends(stack: Stack) -> dict[str, float]:
    database = Database(stack.database_url, pool_size=1)
    row = schema.webhook_events.c
    with database.read() as tx:
        found = {each.id: each.created_at.timestamp() for each in tx.execute(select(row.id, row.created_at))}
    database.close()
    return found


async def _bare(hooks: Receivers, count: int) -> dict[str, float]:
    """The plain loop: no row, no signature, no guard."""
    sent: dict[str, float] = {}
    numbers = iter(range(count))

    async def post(http: httpx.AsyncClient) -> None:
        for number in numbers:
            event_id = f"evt_{number}"
            sent[event_id] = time.time()
            await http.post(hooks.urls[number % RECEIVERS], headers={"webhook-id": event_id}, json={"id": event_id})

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=CONNECTIONS)) as http:
        await asyncio.gather(*(post(http) for _ in range(CONNECTIONS)))
    return _figures(hooks.await_count(count), sent)


def _figures(arrivals: dict[str, float], begun: dict[str, float]) -> dict[str, float]:
    late = [(came_at - begun[event_id]) * 1000 for event_id, came_at in arrivals.items()]
    return {LATEST.name: percentile(late, 99), MIDDLE.name: percentile(late, 50), RATE.name: _rate(arrivals)}


def _rate(arrivals: dict[str, float]) -> float:
    """How many came a second, from the first to the last."""
    return (len(arrivals) - 1) / (max(arrivals.values()) - min(arrivals.values()))
