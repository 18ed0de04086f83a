"""Delay for other jobs when one job, submitted first, is refused with an error that looks like the account's.

Each refusal runs on a fresh server, where no call has proved the account yet: ten slots, 50 calls of five keys.
"""

import time

from benchmarks.report import Figure, Report, Role, percentile
from benchmarks.stage import Run, stage
from tests.support.stack import Stack
from tests.support.tenants import REFUSALS, Tenant, make_tenants
from tests.support.waiting import await_until

KEYS = 5
NEIGHBOURS = 50
SLOTS = 10
FIRST = Figure("p99 of the others s", 2)


def measure(run: Run) -> list[Report]:
    seconds = run.scaled(6, 1)
    report = Report("poison", "One refused job among 50 of five keys", [FIRST, Figure("calls of the refused job", 0)])
    with stage() as servers:
        for _ in range(run.rounds):
            for name, refusal in {"nobody is refused": None, **REFUSALS}.items():
                with servers.stack({"BACKBURNER_WORKER_CONCURRENCY": str(SLOTS)}) as stack:
                    report.add(name, Role.LIMIT if refusal is None else Role.OURS, _one(stack, refusal, seconds))
    report.note(f"each call of the others takes {seconds} s, {SLOTS} at a time")
    return [report]


def _one(stack: Stack, refusal: str | None, seconds: int) -> dict[str, float]:
    tenants = make_tenants(stack, KEYS)
    if refusal is not None:
        poison = tenants[0].submit(f"[[sim: {refusal}]] Hello", priority=9)
        await_until(lambda: stack.calls(poison), 10, "the job was not called")
    prompt = f"[[sim: full delay={seconds}]] Hello"
    others = [_submit(tenants[number % KEYS], prompt) for number in range(NEIGHBOURS)]
    took = [_until_ended(*each) for each in others]
    if refusal is None:
        return {FIRST.name: percentile(took, 99)}

    def refused_for_good() -> bool:
        tenants[1].submit("[[sim: full delay=0]] Hello")
        time.sleep(0.5)
        return tenants[0].status(poison) == "failed"

    await_until(refused_for_good, 60, "the refused job never failed")
    return {FIRST.name: percentile(took, 99), "calls of the refused job": len(stack.calls(poison))}


def _submit(tenant: Tenant, prompt: str) -> tuple[Tenant, str, float]:
    started_at = time.time()
    return tenant, tenant.submit(prompt), started_at


def _until_ended(tenant: Tenant, job: str, started_at: float) -> float:
    """Return the seconds from the submission to the end of its call."""
    await_until(lambda: tenant.status(job) == "completed", 120, "a neighbour never completed")
    [attempt] = tenant.get(f"{job}/attempts")["data"]
    return float(attempt["ended_at"]) - started_at
