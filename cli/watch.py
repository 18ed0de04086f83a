"""Wait for a response and show its progress: a live line on a terminal, else a line for each change.

The server holds each poll for a moment, so an end is shown at once and the line still moves. If the server goes away,
as in a restart, it is polled again: the job is durable.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from cli import render
from cli.api_client import Client, Json, Unreachable
from cli.errors import CommandFailed
from cli.views import ResponseView

HOLD_SECONDS = 2.0
AWAY_SECONDS = 60.0
RETRY_SECONDS = 0.5
FRAMES_PER_SECOND = 8
NEXT_TRY = re.compile(r"next try (in \d+ s|now)")


def wait_for(client: Client, response_id: str, timeout: float | None = None) -> Json:
    """Wait until the response has ended, and return it.

    Raises:
        CommandFailed: it did not end within `timeout` seconds, or the server refuses or stays unreachable.
    """
    give_up_at = float("inf") if timeout is None else monotonic() + timeout
    last_answer = monotonic()
    with _shown(render.err()) as show:
        hold = 0.0
        while True:
            try:
                body = client.retrieve(response_id, wait=hold)
            except Unreachable as error:
                if monotonic() - last_answer >= AWAY_SECONDS or hold == 0:
                    raise
                show(None, f"{error}; trying again")
                sleep(RETRY_SECONDS)
            else:
                last_answer = monotonic()
                view = ResponseView.of(body)
                if view.is_terminal:
                    return body
                show(view, describe(view))
            left = give_up_at - monotonic()
            if left <= 0:
                raise CommandFailed(f"{response_id} has not ended after {timeout:g} s; {come_back(response_id)}")
            hold = min(HOLD_SECONDS, left)


def come_back(response_id: str) -> str:
    """Return the hint for waiting again later."""
    return f"it keeps running; come back with: backburner wait {response_id}"


def describe(view: ResponseView) -> str:
    """Describe the progress of a response in one line."""
    parts = [view.status.replace("_", " ")]
    if view.attempt:
        parts.append(f"attempt {render.attempt_of(view)}")
    if view.queue_position is not None:
        parts.append(f"position {view.queue_position}")
    if view.waiting_for is not None:
        parts.append(f"waiting for: {view.waiting_for}")
    if view.last_problem:
        parts.append(view.last_problem)
    return ", ".join(parts)


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[ResponseView | None, str], None]]:
    line = _Line()
    if not console.is_terminal:
        yield line.print_change
        return
    live = Live(get_renderable=line.moving, console=console, refresh_per_second=FRAMES_PER_SECOND, transient=True)
    with live:
        yield line.change


class _Line:
    """The progress line, for a terminal and for a log."""

    def __init__(self) -> None:
        self._spinner = Spinner("dots", style="cyan")
        self._text = "connecting"
        self._id = ""
        self._started_at = monotonic()

    def change(self, view: ResponseView | None, text: str) -> None:
        """Update the line."""
        if view is not None and not self._id:
            self._id = view.id
            self._started_at -= max(0.0, (render.now() - view.created_at).total_seconds())
        self._text = text

    def moving(self) -> Spinner:
        """Return the line with a spinner and a clock. A terminal redraws it continuously."""
        elapsed = int(monotonic() - self._started_at)
        clock = f"{elapsed // 3600}:{elapsed // 60 % 60:02}:{elapsed % 60:02}"
        text = Text.assemble((clock, "bold"), "  ", render.printable(self._text), "  ", (self._id, "dim"))
        text.truncate(render.err().width - 2, overflow="ellipsis")
        self._spinner.update(text=text)
        return self._spinner

    def print_change(self, view: ResponseView | None, text: str) -> None:
        """Update the line and print it for a log. A countdown to the next try is no change."""
        if NEXT_TRY.sub("", text) != NEXT_TRY.sub("", self._text):
            self.change(view, text)
            render.hint(f"{self._id} {self._text}".strip())
