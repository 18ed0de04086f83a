"""`python -m tests.chaos --jobs 2000 --seed 7`: hurt everything, then count.

The plan (jobs, faults, their order and lengths) and the provider's faults depend on the seed alone; which call a
fault meets is up to the machine's own timing.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from jobs.settings import Transport, load_settings
from jobs.telemetry import configure_logging
from tests.chaos.checks import check_all
from tests.chaos.clients import Seen
from tests.chaos.plan import draw_plan
from tests.chaos.record import Record, collect, history
from tests.chaos.run import Run
from tests.chaos.verdict import TITLES, Violation
from tests.chaos.world import World

DRAIN_SECONDS = 150.0


def judge(record: Record, seen: Seen, seed: int) -> tuple[int, str]:
    """The exit status, and what was checked and how often, or what was broken with the job's whole history."""
    try:
        check_all(record, seen)
    except Violation as violation:
        lines = [f"seed {seed}: {violation}"]
        if violation.job_id is not None:
            lines.append(history(record, seen, violation.job_id))
        return 1, "\n".join(lines)
    return 0, summary(record, seen, seed)


def summary(record: Record, seen: Seen, seed: int) -> str:
    meddling = {"cancelled": len(seen.cancelled), "deleted": len(seen.deleted_at), "run again": len(seen.retried_at)}
    counts = f"{len(seen.acknowledged)} jobs acknowledged, {len(record.jobs)} rows"
    lines = [
        f"seed {seed}, transport {record.transport}: {counts}",
        f"  {seen.seconds:.0f} s in all, of which {seen.drain_seconds:.0f} s to the last end after the last fault",
        f"  faults: {dict(seen.faults.most_common())}",
        f"  submits not acknowledged: {dict(seen.refused)}",
        f"  by clients: {meddling}",
        *(f"  {name}: {value}" for name, value in record.figures.items()),
    ]
    if record.refill is not None:
        idle = f"free slots saw none of them begin for {record.refill.seconds:.2f} s at most"
        lines.append(f"  {record.refill.jobs} jobs lost their messages to a flush: {idle}")
    lines += [f"  promise {number}, {title}: {record.checked[number]} checks" for number, title in TITLES.items()]
    return "\n".join([*lines, "  no violation"])


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--pace", type=float, default=12.0, help="jobs submitted per second")
    parser.add_argument("--density", type=float, default=1.0, help="how close the faults follow each other")
    parser.add_argument("--transport", type=Transport, choices=list(Transport), default=Transport.PLAIN)
    parser.add_argument(
        "--pooler", action="store_true", help="with a PgBouncer in transaction mode before the database"
    )
    parser.add_argument("--logs", type=Path, help="where to write all that the processes have printed")
    options = parser.parse_args()
    configure_logging(load_settings(log_level="error"))  # our own needless messages may find no broker
    say(f"seed {options.seed}, {options.jobs} jobs, transport {options.transport}")
    plan = draw_plan(options.seed, options.jobs, options.density)
    with (
        tempfile.TemporaryDirectory() as directory,
        World(Path(directory), options.seed, options.transport, is_pooled=options.pooler) as world,
    ):
        run = Run(world, plan, options.pace, say)
        refill = run.go(DRAIN_SECONDS)
        record = collect(world, refill, options.transport)
        if options.logs is not None:
            options.logs.write_text("\n".join(record.lines))
        status, text = judge(record, run.seen, options.seed)
    say(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
