"""Run benchmarks: `python -m benchmarks [--quick] [--rounds N] [NAME ...]`; without names all, one after the other."""

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
"""Each is a module of this package with a function `measure(run) -> list of reports`."""


def main() -> int:
    """Run those that are named; the exit status says whether each came to its end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="a shape within minutes instead of a figure; not kept")
    parser.add_argument("--rounds", type=int, default=3, help="how often each subject is measured; 1 with --quick")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    run = Run(quick=arguments.quick, rounds=1 if arguments.quick else arguments.rounds)
    console = Console(width=140)
    failed = []
    for name in arguments.names or BENCHMARKS:
        console.rule(name)
        try:
            reports = import_module(f"benchmarks.{name}").measure(run)
        except Exception:  # noqa: BLE001  # the others are measured all the same
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
