"""How many background responses one API process accepts a second, each durable before it is answered."""

import json
import sys
from collections.abc import Iterator

from benchmarks.load import drive, request
from benchmarks.report import Figure, Report, Role
from benchmarks.stage import Run, stage
from tests.support.stack import API_KEY, MODEL, ROOT, Process, Stack

CLIENTS = 64
BODY = json.dumps({"model": MODEL, "input": "Say hello in one word.", "background": True}).encode()
ACCEPTED = Figure("accepted/s", digits=0)
FIGURES = (ACCEPTED, Figure("p50 ms"), Figure("p99 ms"))


def measure(run: Run) -> list[Report]:
    report = Report("accept", f"Accepting background responses, {CLIENTS} clients", FIGURES)
    seconds = run.scaled(10, 3)
    with stage() as servers:
        for _ in range(run.rounds):
            with servers.stack(workers=0) as stack:
                report.add("Backburner, PostgreSQL", Role.OURS, _ours(stack, seconds))
            with servers.stack(workers=0, sqlite=True) as stack:
                report.add("Backburner, SQLite", Role.OURS, _ours(stack, seconds))
            for url in _bare_asgi():
                report.add("bare ASGI, nothing done", Role.LIMIT, _creates(f"{url}/v1", seconds))
    return [report]


def _ours(stack: Stack, seconds: float) -> dict[str, float]:
    return _creates(stack.base_url, seconds)


def _creates(base_url: str, seconds: float) -> dict[str, float]:
    url = f"{base_url}/responses"
    create = request("POST", url, {"authorization": f"Bearer {API_KEY}"}, BODY)
    drive(url, lambda: create, clients=CLIENTS, seconds=1)
    load = drive(url, lambda: create, clients=CLIENTS, seconds=seconds)
    assert not load.refused, load.statuses
    return load.figures(ACCEPTED.name)


def _bare_asgi() -> Iterator[str]:
    """A server that answers at once, on the same uvicorn: what HTTP itself costs here."""
    command = [sys.executable, "-m", "uvicorn", "benchmarks.peers.bare_asgi:app", "--port", "0", "--no-access-log"]
    process = Process("bare ASGI", command, {"PYTHONPATH": str(ROOT)})
    try:
        yield process.match(r"running on (http://127\.0\.0\.1:\d+)")[1]
    finally:
        process.stop()
