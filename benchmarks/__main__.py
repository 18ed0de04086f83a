"""Run benchmarks: `python -m benchmarks [--quick] [NAME ...]`; without names all of them, one after the other."""

import argparse
from importlib import import_module
from typing import Final

from rich.console import Console

from benchmarks.stage import Run

BENCHMARKS: Final = ("accept", "backlog")
"""Each is a module of this package with a function `measure(run) -> list of reports`."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="a shape within minutes instead of a figure; not kept")
    arguments = parser.parse_args()
    run = Run(quick=arguments.quick)
    console = Console(width=140)
    for name in arguments.names or BENCHMARKS:
        console.rule(name)
        for report in import_module(f"benchmarks.{name}").measure(run):
            report.show(console)
            if not run.quick:
                report.save()


if __name__ == "__main__":
    main()
