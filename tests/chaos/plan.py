"""What a seed stands for: the jobs to submit and the faults to inject, drawn before anything runs."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MODEL: Final = "openai/o3-pro"
PROMPT_MARK: Final = "wisteria-prompt-mark"
ANSWER_MARK: Final = "wisteria-answer-mark"
WORKERS: Final = 3
APIS: Final = 2
WORKER_TIMEOUT: Final = 3.0
CALL_DEADLINE: Final = 5.0
JOB_DEADLINE: Final = 90.0
MOST_FAULTS: Final = 5_000

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
}

# Refusals of our key or our credit: the job waits for half a minute, too long for a short run.
PAUSING: Final[Mapping[str, float]] = {"429-quota, then full": 0.3, "403, then full": 0.2, "401, then full": 0.2}

FAULTS: Final[Mapping[str, float]] = {
    "kill worker": 5,
    "freeze worker": 5,
    "stop worker": 2,
    "kill api": 2,
    "freeze api": 2,
    "flush broker": 3,
    "restart broker": 2,
    "restart database": 1,
    "crash database": 1,
    "cut provider": 4,
    "stall provider": 2,
    "cut database": 3,
    "stall database": 2,
    "cut broker": 3,
    "stall broker": 2,
}


@dataclass(frozen=True)
class PlannedJob:
    """One submit: its body, and when to cancel it, in seconds after it was acknowledged, if ever."""

    number: int
    body: dict[str, Any]
    cancel_after: float | None


@dataclass(frozen=True)
class PlannedFault:
    """One fault: how long after the one before, what, to which of several, and for how long."""

    pause: float
    name: str
    target: int
    seconds: float
    share: float


@dataclass(frozen=True)
class Plan:
    """Everything that chance decides."""

    seed: int
    jobs: list[PlannedJob]
    faults: list[PlannedFault]


def draw_plan(seed: int, jobs: int, *, pausing: bool = True) -> Plan:
    """The plan of a seed; the same arguments give the same plan. There are more faults than any run has time for."""
    rng = random.Random(f"{seed}|{jobs}")
    scripts = {**DIRECTED, **PAUSING} if pausing else DIRECTED
    return Plan(seed, [_job(rng, number, scripts) for number in range(jobs)], [_fault(rng) for _ in range(MOST_FAULTS)])


def _weighted(rng: random.Random, weights: Mapping[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _job(rng: random.Random, number: int, scripts: Mapping[str, float]) -> PlannedJob:
    script = _weighted(rng, scripts)
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
    cancel_after = rng.choice((0, 0.05, 0.3, 1, 3)) if rng.random() < 0.1 else None
    return PlannedJob(number, body, cancel_after)


def _fault(rng: random.Random) -> PlannedFault:
    return PlannedFault(
        pause=rng.uniform(0.5, 2.5),
        name=_weighted(rng, FAULTS),
        target=rng.randrange(WORKERS * APIS),
        seconds=rng.uniform(0.3, 6),
        share=rng.choice((0.2, 0.5, 1)),
    )
