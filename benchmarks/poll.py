"""Polls of a finished response that one API process answers per second: in full, and unchanged (304)."""

import httpx

from benchmarks.limits import memory_api
from benchmarks.load import AUTHORIZED, request, saturate
from benchmarks.report import Figure, Report, Role
from benchmarks.stage import Run, stage
from tests.support.stack import Stack

CLIENTS = 64
POLLED = Figure("polled/s", digits=0)
FIGURES = (POLLED, Figure("p50 ms"), Figure("p99 ms"))


def measure(run: Run) -> list[Report]:
    report = Report("poll", f"Polling a finished response, {CLIENTS} clients", FIGURES)
    seconds = run.scaled(10, 2)
    with stage() as servers:
        for _ in range(run.rounds):
            for name, is_sqlite in (("PostgreSQL", False), ("SQLite", True)):
                with servers.stack(sqlite=is_sqlite) as stack:
                    url, answer = _finished(stack)
                    report.add(f"Backburner, {name}", Role.OURS, _polls(url, AUTHORIZED, seconds))
                    unchanged = {**AUTHORIZED, "if-none-match": answer.headers["etag"]}
                    report.add(f"Backburner, {name}, unchanged", Role.OURS, _polls(url, unchanged, seconds))
            with memory_api(answer.content) as base_url:
                limit = _polls(f"{base_url}/v1/responses/any", AUTHORIZED, seconds)
            report.add("FastAPI, the same bytes from memory", Role.LIMIT, limit)
    report.note(f"the body has {len(answer.content):,} bytes")
    return [report]


def _finished(stack: Stack) -> tuple[str, httpx.Response]:
    job_id = stack.submit("[[sim: full delay=0]] Hello")
    stack.await_all([job_id], "completed", 30)
    with stack.http() as http:
        answer = http.get(f"/responses/{job_id}").raise_for_status()
    return str(answer.url), answer


def _polls(url: str, headers: dict[str, str], seconds: float) -> dict[str, float]:
    poll = request("GET", url, headers)
    return saturate(url, poll, clients=CLIENTS, seconds=seconds).figures(POLLED.name)
