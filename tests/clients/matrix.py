"""The table of docs/compatibility.md, made from a run of all clients in all worlds."""

from collections.abc import Mapping

from tests.clients.faults import CLIENT_FAULTS, LACKED_BY_STRICT
from tests.clients.programs import Run
from tests.clients.worlds import DIRECT, THROUGH, CallLog
from tests.support.stack import ROOT

PAGE = ROOT / "docs/compatibility.md"
BEGIN, END = "<!-- clients: begin -->\n", "<!-- clients: end -->\n"
COLUMNS = ("client", "versions", "provider alone", *(name.replace("-", ", ") for name in THROUGH), "billed_calls")


def billed_calls(run: Run, call_log: CallLog) -> dict[str, int]:
    """Return the number of billed calls of each scenario with an empty answer."""
    empty = [name for name in run.scenarios if name.startswith("empty_")]
    return {name: call_log.billed_calls[run.client.name, name] for name in empty}


def table(runs: Mapping[str, Run], call_logs: Mapping[str, CallLog]) -> str:
    """Return a line for each client, one for their sum, and a sentence for every failure."""
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    lines += [_line(_cells(run, call_logs)) for run in runs.values()]
    lines.append(_line(["**all**", "", *(_passed(*runs.values(), world=world) for world in (DIRECT, *THROUGH)), ""]))
    tables = (CLIENT_FAULTS, LACKED_BY_STRICT)
    faults = [(name, each) for faults in tables for name, scenarios in faults.items() for each in scenarios.items()]
    notes = [f"- {runs[name].client.title}, `{scenario}`: {reason}." for name, (scenario, reason) in faults]
    return "\n".join([*lines, "", *notes, ""])


def _cells(run: Run, call_logs: Mapping[str, CallLog]) -> list[str]:
    versions = ", ".join(f"`{package}` {version}" for package, version in run.versions.items())
    counts = [_passed(run, world=world) for world in (DIRECT, *THROUGH)]
    alone = "/".join(str(count) for count in billed_calls(run, call_logs[DIRECT]).values())
    through = [billed_calls(run, call_logs[world]) for world in THROUGH]
    most = [max(each[name] for each in through) for name in billed_calls(run, call_logs[DIRECT])]
    here = "/".join(str(count) for count in most)
    return [run.client.title, versions, *counts, f"{here} (alone {alone})"]


def _passed(*runs: Run, world: str) -> str:
    results = [result for run in runs for result in run.results[world].values()]
    return f"{sum(result.passed for result in results)}/{len(results)}"


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def shown() -> str:
    """The table as the page has it."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0]


def write(made: str) -> None:
    """Put a table onto the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + made + END + rest.partition(END)[2])
