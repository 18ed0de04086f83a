"""Run benchmarks: `python -m benchmarks [--quick] [--rounds N] [NAME ...]`. Without names, run all of them in order."""

import argparse
import sys
from importlib import import_module
from typing import Final

from rich.console import Console

from benchmarks import page
from benchmarks.stage import Run

BENCHMARKS: Final = (
    *("accept", "poll", "latency", "in_flight", "drain"),
    *("memory", "backlog", "deliveries", "beside", "poison", "fleet", "profile"),
)
"""Modules of this package with a function `measure(run) -> list[Report]`."""


def main() -> int:
    """Run the benchmarks named in the arguments. Return 0 if all of them completed, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--quick",
        action="store_true",
        help="show the shape within minutes instead of exact figures; results are not saved",
    )
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each subject; 1 with --quick")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark called {', '.join(sorted(unknown))}; choose from {', '.join(BENCHMARKS)}")
    run = Run(quick=arguments.quick, rounds=1 if arguments.quick else arguments.rounds)
    console = Console(width=140)
    failed = []
    for name in arguments.names or BENCHMARKS:
        console.rule(name)
        try:
            reports = import_module(f"benchmarks.{name}").measure(run)
        except Exception:  # noqa: BLE001  # the other benchmarks still run
            console.print_exception(max_frames=5)
            failed.append(name)
            continue
        for report in reports:
            report.show(console)
            if not run.quick:
                report.save()
    if not run.quick:
        page.write()
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="bold red")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
