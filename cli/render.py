"""What the client commands print: tables and short reports for people, JSON for programs.

Answers come from outside, so on a terminal they are stripped of control characters.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

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
    """Standard output; wide where no terminal folds it."""
    return _console(stderr=False)


def err() -> Console:
    """Standard error: progress, hints and failures, so that stdout holds the result alone."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    file = sys.stderr if stderr else sys.stdout
    return Console(file=file, highlight=False, markup=False, width=None if file.isatty() else WIDE)


def print_json(body: object) -> None:
    """The server's JSON, and nothing else: indented for a person, one line for a program."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(body, ensure_ascii=False, indent=indent) + "\n")


def print_text(text: str) -> None:
    """An answer's text."""
    sys.stdout.write((printable(text) if sys.stdout.isatty() else text) + "\n")


def hint(text: str) -> None:
    """A line beside the result."""
    err().print(Text(printable(text), "dim"), soft_wrap=True)


def failure(text: str) -> None:
    """Why a command failed."""
    err().print(Text("Error: ", "bold red") + Text(printable(text)), soft_wrap=True)


def print_response(view: ResponseView, now: datetime) -> None:
    """A response's facts, then its text."""
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
    """Responses as a table, newest first."""
    table = _table()
    table.add_column("id", no_wrap=True, min_width=max((len(view.id) for view in views), default=0))
    for name in ("status", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("age", "attempt", "tokens", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    waits = any(view.waiting_for for view in views)
    if waits:
        table.add_column("waiting for", overflow="fold")
    for view in views:
        tokens = f"{view.total_tokens:,}" if view.total_tokens else ""
        cost = "" if view.cost_usd is None else dollars(view.cost_usd)
        created = age(view.created_at, now)
        waiting_for = [printable(view.waiting_for or "")] if waits else []
        table.add_row(
            view.id, status_text(view.status), view.model, created, attempt_of(view), tokens, cost, *waiting_for
        )
    show(table)


def print_usage(rows: Sequence[UsageView]) -> None:
    """Usage as a table with its sum."""
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
    """The calls made for a response as a table, first to last."""
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
    """A table on stdout, without the blanks that would fill its last column up in a file."""
    console = out()
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def print_table(columns: Iterable[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """A plain table."""
    table = _table()
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    show(table)


def printable(text: str) -> str:
    """`text` without what could move a terminal's cursor or forge its lines."""
    return CONTROL.sub("", text)


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(status, STATUS_STYLES.get(status, ""))


def attempt_of(view: ResponseView) -> str:
    """Which attempt it is at, of how many; beyond that number some have used none, and it is left out."""
    has_bound = view.max_attempts is not None and view.attempt <= view.max_attempts
    return f"{view.attempt}/{view.max_attempts}" if has_bound else str(view.attempt)


def age(since: datetime, until: datetime) -> str:
    """A span in the largest unit that tells something: 42 s, 7 m 05 s, 3 h 10 m, 2 d 04 h."""
    seconds = max(0, int((until - since).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days} d {hours % 24:02} h"
    if hours:
        return f"{hours} h {minutes % 60:02} m"
    return f"{minutes} m {seconds % 60:02} s" if minutes else f"{seconds} s"


def dollars(amount: float) -> str:
    """Money, with as many digits as a cheap call needs."""
    return f"${amount:,.2f}" if amount >= 1 or amount == 0 else f"${amount:.4f}"


def unknown_cost(calls: int) -> str:
    """How many calls are in no sum of costs; empty when it is none."""
    return f"{calls:,} {'call' if calls == 1 else 'calls'} of unknown cost" if calls else ""


def now() -> datetime:
    """The clock that ages are read from."""
    return datetime.now(UTC)


def _table(*, footer: bool = False) -> Table:
    return Table(box=None, pad_edge=False, header_style="bold", show_footer=footer, footer_style="bold")
