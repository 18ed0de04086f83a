"""One job that the provider refuses in the account's words, submitted before all others: what it costs the others.

Each on a fresh server, where no call has told yet that the account is well: ten slots, 50 calls of five keys.
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
        await_until(lambda: stack.calls(poison), 10, "the job was never called")
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
    begun = time.time()
    return tenant, tenant.submit(prompt), begun


def _until_ended(tenant: Tenant, job: str, begun: float) -> float:
    """From the submission to the end of its call, in seconds."""
    await_until(lambda: tenant.status(job) == "completed", 120, "a neighbour never completed")
    [attempt] = tenant.get(f"{job}/attempts")["data"]
    return float(attempt["ended_at"]) - begun
