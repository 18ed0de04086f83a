"""`python -m tests.chaos --jobs 2000 --seed 7`: hurt everything, then count.

The plan (jobs, faults, their order and lengths) and the provider's faults depend on the seed alone; which call a
fault meets is up to the machine's own timing.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.checks import TITLES, Record, Violation, check_all, collect, history
from tests.chaos.plan import draw_plan
from tests.chaos.run import Run, Seen
from tests.chaos.world import World

DRAIN_SECONDS = 150.0


def chaos(jobs: int, seed: int, pace: float, *, pausing: bool = True) -> str:
    """Run a seed and check every promise; what was found out, as text.

    Raises:
        AssertionError: a promise was broken; the message holds the job's whole history.
    """
    plan = draw_plan(seed, jobs, pausing=pausing)
    with tempfile.TemporaryDirectory() as directory, World(Path(directory), seed) as world:
        seen = Run(world, plan, pace, say).go(DRAIN_SECONDS)
        record = collect(world)
        try:
            check_all(world, record, seen)
        except Violation as violation:
            lines = [f"seed {seed}: {violation}"]
            if violation.job_id is not None:
                lines.append(history(record, violation.job_id))
            raise AssertionError("\n".join(lines)) from violation
        return summary(plan.seed, seen, record)


def summary(seed: int, seen: Seen, record: Record) -> str:
    lines = [
        f"seed {seed}: {len(seen.acknowledged)} jobs acknowledged, {len(record.jobs)} rows",
        f"  {seen.seconds:.0f} s in all, the last {seen.drain_seconds:.0f} s without faults until everything had ended",
        f"  faults: {dict(seen.faults.most_common())}",
        f"  submits not acknowledged: {dict(seen.refused)}; cancels answered: {len(seen.cancelled)}",
        *(f"  {name}: {value}" for name, value in record.figures.items()),
        *(f"  promise {number}, {title}: {record.checked[number]} checks" for number, title in TITLES.items()),
        "  no violation",
    ]
    return "\n".join(lines)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--pace", type=float, default=20.0, help="jobs submitted per second")
    options = parser.parse_args()
    say(f"seed {options.seed}, {options.jobs} jobs")
    try:
        say(chaos(options.jobs, options.seed, options.pace))
    except AssertionError as violation:
        say(str(violation))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
