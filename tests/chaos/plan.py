"""The plan of a seed: jobs to submit and faults to inject, drawn before anything runs."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from simulator.options import CHAOS_MIX

MODEL: Final = "openai/o3-pro"
PROMPT_MARK: Final = "wisteria-prompt-mark"
ANSWER_MARK: Final = "wisteria-answer-mark"
WORKERS: Final = 3
CONCURRENCY: Final = 24
APIS: Final = 2
TENANTS: Final = 2
WORKER_TIMEOUT: Final = 3.0
CALL_DEADLINE: Final = 5.0
JOB_DEADLINE: Final = 90.0
MOST_FAULTS: Final = 5_000
LONG_RUN: Final = 1_000

# What a job's prompt asks of the simulator; an undirected one meets the simulator's own table of faults.
DIRECTED: Final[Mapping[str, float]] = {
    "": 76,
    f"full text={ANSWER_MARK}": 6,
    "full delay=2.5": 6,
    "full delay=4": 3,
    "full delay=30, then full": 1,
    "half-open max=60, then full": 1,
    "incomplete": 1,
    "empty": 1,
    "overflow": 1,
    "400-value": 1,
    "slow every=0.001": 1,
    "refusal": 1,
    "429-quota, then full": 0.05,
}

# All kinds of the simulator. Rate limits are rarer than by default: each halves the provider limit, and with calls of
# half a second it would shrink faster than it grows, so that nothing would be in flight.
SHARE_OF_FAULTS: Final = 0.3
TOO_MUCH: Final = ("429", "503", "529")
PROVIDER_FAULTS: Final[Mapping[str, float]] = {
    step: weight * (0.01 if step.startswith(TOO_MUCH) else 1) for step, weight in CHAOS_MIX.items()
}

FAULTS: Final[Mapping[str, float]] = {
    "kill worker": 5,
    "freeze worker": 5,
    "suspend worker": 0.7,
    "catch worker": 2,
    "stop worker": 1.5,
    "limit worker": 1,
    "interrupt worker": 2.5,
    "kill api": 2,
    "freeze api": 2,
    "flush broker": 3,
    "restart broker": 2,
    "enqueue needlessly": 3,
    "command workers": 2,
    "litter broker": 3,
    "mistype broker": 1,
    "restart database": 1,
    "crash database": 1,
    "cut provider": 4,
    "stall provider": 2,
    "silence provider": 1,
    "refuse key": 0.5,
    "refuse credit": 0.5,
    "cut database": 3,
    "stall database": 2,
    "silence database": 1.5,
    "lock jobs": 3,
    "lock key": 1.5,
    "lock worker": 1,
    "lock leases": 1,
    "lock limits": 1,
    "lock installation": 0.5,
    "cut broker": 3,
    "stall broker": 2,
    "silence broker": 1.5,
    "demote broker": 1,
    "fill broker": 1,
    "relock broker": 0.5,
    "demote database": 1,
    "set worker": 1.5,
    "set api": 1,
    "set hosts": 1,
    "lose provider": 1,
    "overload provider": 1,
}


@dataclass(frozen=True)
class PlannedJob:
    """One create: its tenant, body and Idempotency-Key, and later actions of its client.

    `cancel_after` and `delete_after` are seconds after the acknowledgement; `retry` runs it once more should it
    fail or be cancelled.
    """

    number: int
    tenant: int
    body: dict[str, Any]
    idempotency_key: str | None
    cancel_after: float | None
    delete_after: float | None
    retry: bool


@dataclass(frozen=True)
class PlannedFault:
    """One fault: its delay after the one before, its verb and target, and its length in seconds."""

    pause: float
    name: str
    target: int
    seconds: float
    share: float


@dataclass(frozen=True)
class Plan:
    """Everything decided by chance. The broker is away once, for `outage_seconds`, while jobs are submitted."""

    seed: int
    jobs: list[PlannedJob]
    faults: list[PlannedFault]
    outage_seconds: float


def draw_plan(seed: int, jobs: int, density: float = 1.0) -> Plan:
    """Return the plan of a seed: the same for the same arguments, with more faults than any run has time for.

    `density` scales how close the faults follow each other.
    """
    rng = random.Random(f"{seed}|{jobs}")
    planned = [_job(rng, seed, number) for number in range(jobs)]
    faults = [_fault(rng, density) for _ in range(MOST_FAULTS)]
    return Plan(seed, planned, faults, outage_seconds=30 if jobs >= LONG_RUN else 3)


def _weighted(rng: random.Random, weights: Mapping[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _job(rng: random.Random, seed: int, number: int) -> PlannedJob:
    script = _weighted(rng, DIRECTED)
    directive = f"[[sim: {script}]] " if script else ""
    body: dict[str, Any] = {
        "model": MODEL,
        "background": True,
        "input": f"{directive}{PROMPT_MARK} {number}",
        "on_unknown_outcome": rng.choice(("retry", "retry", "fail")),
        "max_attempts": rng.choice((1, 3, 5, 5, 10)),
        "priority": rng.randrange(10),
        "metadata": {"number": str(number)},
    }
    if rng.random() < 0.04:
        body["deadline_seconds"] = rng.choice((2, 5, 10))
    chance = rng.random()
    return PlannedJob(
        number,
        rng.randrange(TENANTS),
        body,
        f"chaos-{seed}-{number}" if rng.random() < 0.5 else None,
        cancel_after=rng.choice((0, 0.05, 0.3, 1, 3)) if chance < 0.1 else None,
        delete_after=rng.choice((0, 0.3, 1, 5, 10)) if 0.1 <= chance < 0.14 else None,
        retry=rng.random() < 0.2,
    )


def _fault(rng: random.Random, density: float) -> PlannedFault:
    return PlannedFault(
        pause=rng.uniform(0.5, 2.5) / density,
        name=_weighted(rng, FAULTS),
        target=rng.randrange(WORKERS * APIS),
        seconds=rng.uniform(0.3, 6),
        share=rng.choice((0.2, 0.5, 1)),
    )
