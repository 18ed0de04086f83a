"""Output of the client commands: tables and short reports for people, JSON for programs.

Answers are foreign text, so control characters are removed on a terminal.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.views import AttemptView, ResponseView, UsageView

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
WIDE = 200
STATUS_STYLES = {
    "queued": "cyan",
    "in_progress": "blue",
    "completed": "green",
    "incomplete": "yellow",
    "failed": "red",
    "cancelled": "magenta",
}


def out() -> Console:
    """Return a console for standard output, wide unless it is a terminal."""
    return _console(stderr=False)


def err() -> Console:
    """Return a console for standard error: progress, hints and failures, so that stdout has only the result."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    file = sys.stderr if stderr else sys.stdout
    return Console(file=file, highlight=False, markup=False, width=None if file.isatty() else WIDE)


def print_json(body: object) -> None:
    """Print JSON: indented on a terminal, else in one line."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(body, ensure_ascii=False, indent=indent) + "\n")


def print_status(body: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the id and the status of a response or a delivery, or all of it as JSON."""
    if as_json:
        print_json(body)
    else:
        print_text(f"{body.get('id')} {body.get('status')}")


def print_text(text: str) -> None:
    """Print a text as it is, but without control characters on a terminal."""
    sys.stdout.write((printable(text) if sys.stdout.isatty() else text) + "\n")


def hint(text: str) -> None:
    """Print a line on stderr."""
    err().print(Text(printable(text), "dim"), soft_wrap=True)


def failure(text: str) -> None:
    """Print why a command failed."""
    err().print(Text("Error: ", "bold red") + Text(printable(text)), soft_wrap=True)


def print_response(view: ResponseView, now: datetime) -> None:
    """Print the facts of a response, then its text."""
    grid = Table.grid(padding=(0, 2))
    rows = [("id", Text(view.id)), ("status", status_text(view.status)), ("model", Text(view.model))]
    rows.append(("age", Text(age(view.created_at, view.completed_at or now))))
    rows.append(("attempt", Text(attempt_of(view))))
    if view.queue_position is not None:
        rows.append(("position", Text(str(view.queue_position))))
    if view.waiting_for is not None:
        rows.append(("waiting for", Text(printable(view.waiting_for))))
    if view.total_tokens:
        rows.append(("tokens", Text(f"{view.input_tokens:,} in, {view.output_tokens:,} out")))
    if view.cost_usd is not None:
        rows.append(("cost", Text(dollars(view.cost_usd))))
    if (problem := view.error or view.last_problem or view.incomplete_reason) is not None:
        rows.append(("problem", Text(printable(problem))))
    for name, value in rows:
        grid.add_row(Text("took" if name == "age" and view.completed_at else name, "dim"), value)
    show(grid)
    if view.text:
        sys.stdout.write("\n")
        print_text(view.text)


def print_list(views: Sequence[ResponseView], now: datetime) -> None:
    """Print responses as a table, in the given order."""
    table = _table()
    table.add_column("id", no_wrap=True, min_width=max((len(view.id) for view in views), default=0))
    for name in ("status", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("age", "attempt", "tokens", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    has_waiting = any(view.waiting_for for view in views)
    if has_waiting:
        table.add_column("waiting for", overflow="fold")
    for view in views:
        tokens = f"{view.total_tokens:,}" if view.total_tokens else ""
        cost = "" if view.cost_usd is None else dollars(view.cost_usd)
        created = age(view.created_at, now)
        waiting_for = [printable(view.waiting_for or "")] if has_waiting else []
        table.add_row(
            view.id, status_text(view.status), view.model, created, attempt_of(view), tokens, cost, *waiting_for
        )
    show(table)


def print_usage(rows: Sequence[UsageView]) -> None:
    """Print usage as a table with totals."""
    table = _table(footer=True)
    total = f"{sum(row.calls for row in rows):,}"
    table.add_column("day", "total", no_wrap=True)
    for name in ("model", "key"):
        table.add_column(name)
    table.add_column("calls", total, justify="right")
    table.add_column("input", f"{sum(row.input_tokens for row in rows):,}", justify="right")
    table.add_column("output", f"{sum(row.output_tokens for row in rows):,}", justify="right")
    table.add_column("total", f"{sum(row.total_tokens for row in rows):,}", justify="right")
    table.add_column("cost", dollars(sum(row.cost_usd for row in rows)), justify="right")
    table.add_column("", unknown_cost(sum(row.calls_of_unknown_cost for row in rows)))
    for row in rows:
        tokens = (f"{count:,}" for count in (row.calls, row.input_tokens, row.output_tokens, row.total_tokens))
        is_known = row.cost_usd or not row.calls_of_unknown_cost
        cost = dollars(row.cost_usd) if is_known else ""
        table.add_row(row.day, row.model, row.key, *tokens, cost, unknown_cost(row.calls_of_unknown_cost))
    show(table)


def print_attempts(attempts: Sequence[AttemptView], now: datetime) -> None:
    """Print the attempts of a response as a table, first to last."""
    table = _table()
    for name in ("attempt", "outcome", "HTTP", "took", "billed", "tokens", "cost"):
        table.add_column(name, justify="left" if name in ("outcome", "billed") else "right", no_wrap=True)
    table.add_column("problem", overflow="fold")
    for each in attempts:
        table.add_row(
            str(each.number),
            status_text(each.outcome),
            "" if each.http_status is None else str(each.http_status),
            age(each.started_at, each.ended_at or now),
            each.billed,
            f"{each.total_tokens:,}" if each.total_tokens else "",
            "" if each.cost_usd is None else dollars(each.cost_usd),
            printable(each.problem or ""),
        )
    show(table)


def show(table: Table) -> None:
    """Print a table on stdout. In a file, lines have no trailing blanks."""
    console = out()
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def print_table(columns: Iterable[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print rows as a plain table."""
    table = _table()
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    show(table)


def printable(text: str) -> str:
    """Remove the characters that could move a terminal's cursor or forge lines."""
    return CONTROL.sub("", text)


def status_text(status: str) -> Text:
    """Return a status in its colour."""
    return Text(status, STATUS_STYLES.get(status, ""))


def attempt_of(view: ResponseView) -> str:
    """Return the number of the attempt and the maximum.

    The maximum is left out if it is exceeded, as some calls do not count as attempts.
    """
    has_bound = view.max_attempts is not None and view.attempt <= view.max_attempts
    return f"{view.attempt}/{view.max_attempts}" if has_bound else str(view.attempt)


def age(since: datetime, until: datetime) -> str:
    """Return a span in its two largest units: 42 s, 7 m 05 s, 3 h 10 m, 2 d 04 h."""
    seconds = max(0, int((until - since).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days} d {hours % 24:02} h"
    if hours:
        return f"{hours} h {minutes % 60:02} m"
    return f"{minutes} m {seconds % 60:02} s" if minutes else f"{seconds} s"


def dollars(amount: float) -> str:
    """Return an amount of money, with four decimals below a dollar."""
    return f"${amount:,.2f}" if amount >= 1 or amount == 0 else f"${amount:.4f}"


def unknown_cost(calls: int) -> str:
    """Describe the calls that no sum of costs includes. Empty if there are none."""
    return f"{calls:,} {'call' if calls == 1 else 'calls'} of unknown cost" if calls else ""


def now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


def _table(*, footer: bool = False) -> Table:
    return Table(box=None, pad_edge=False, header_style="bold", show_footer=footer, footer_style="bold")
