"""The number of background responses that one API process accepts per second, each durable before it is answered.

No worker runs, so that only accepting is measured. The limits are FastAPI alone and pgbench alone.
"""

import json

from benchmarks.limits import AS_OURS, asgi, naive_api, pgbench
from benchmarks.load import AUTHORIZED, request, saturate
from benchmarks.report import Figure, Report, Role, percentile
from benchmarks.stage import Run, stage
from tests.support.stack import MODEL

CLIENTS = 64
BODY = json.dumps({"model": MODEL, "input": "Say hello in one word.", "background": True}).encode()
ACCEPTED = Figure("accepted/s", digits=0)
FIGURES = (ACCEPTED, Figure("p50 ms"), Figure("p99 ms"))


def measure(run: Run) -> list[Report]:
    report = Report("accept", f"Accepting background responses, {CLIENTS} clients", FIGURES)
    seconds = run.scaled(10, 2)
    with stage() as servers:
        for _ in range(run.rounds):
            with servers.stack(workers=0) as stack:
                report.add("Backburner, PostgreSQL", Role.OURS, _creates(stack.base_url, seconds))
            with servers.stack(workers=0, sqlite=True) as stack:
                report.add("Backburner, SQLite", Role.OURS, _creates(stack.base_url, seconds))
            with naive_api(servers) as url:
                report.add("FastAPI + ORM + Celery", Role.PLAIN, _creates(f"{url}/v1", seconds))
            with asgi("fastapi_nothing", AS_OURS) as url:
                report.add("FastAPI, nothing done", Role.LIMIT, _creates(f"{url}/v1", seconds))
            rate, latencies = pgbench(servers, clients=CLIENTS, seconds=seconds)
            shares = {f"p{share} ms": percentile(latencies, share) for share in (50, 99)}
            report.add("pgbench, single-row commits", Role.LIMIT, {ACCEPTED.name: rate, **shares})
    return [report]


def _creates(base_url: str, seconds: float) -> dict[str, float]:
    url = f"{base_url}/responses"
    create = request("POST", url, AUTHORIZED, BODY)
    return saturate(url, create, clients=CLIENTS, seconds=seconds).figures(ACCEPTED.name)
