"""Waiting for a response in front of a person: a live line on a terminal, a line per change elsewhere.

The server holds each question for a moment, so an end is seen at once and the line still moves. A server that goes
away, as in a restart, is waited for: the job is durable.
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

HELD_SECONDS = 2.0
AWAY_SECONDS = 60.0
ASK_AGAIN_SECONDS = 0.5
FRAMES_PER_SECOND = 8
NEXT_TRY = re.compile(r"next try (in \d+ s|now)")


def wait_for(client: Client, response_id: str, timeout: float | None = None) -> Json:
    """The response once it has ended.

    Raises:
        CommandFailed: `timeout` seconds passed first, or the server refuses or stays away.
    """
    give_up_at = float("inf") if timeout is None else monotonic() + timeout
    last_heard = monotonic()
    with _shown(render.err()) as show:
        hold = 0.0
        while True:
            try:
                body = client.retrieve(response_id, wait=hold)
            except Unreachable as error:
                if monotonic() - last_heard >= AWAY_SECONDS or hold == 0:
                    raise
                show(None, f"{error}; trying again")
                sleep(ASK_AGAIN_SECONDS)
            else:
                last_heard = monotonic()
                view = ResponseView.of(body)
                if view.is_terminal:
                    return body
                show(view, describe(view))
            left = give_up_at - monotonic()
            if left <= 0:
                raise CommandFailed(f"{response_id} has not ended after {timeout:g} s; {come_back(response_id)}")
            hold = min(HELD_SECONDS, left)


def come_back(response_id: str) -> str:
    """How to go on waiting later."""
    return f"it goes on; come back with: backburner wait {response_id}"


def describe(view: ResponseView) -> str:
    """Where a response is on its way, in one line."""
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
    """The state of the line, and its two looks."""

    def __init__(self) -> None:
        self._spinner = Spinner("dots", style="cyan")
        self._text = "asking"
        self._id = ""
        self._began = monotonic()

    def change(self, view: ResponseView | None, text: str) -> None:
        """Take in the news."""
        if view is not None and not self._id:
            self._id = view.id
            self._began -= max(0.0, (render.now() - view.created_at).total_seconds())
        self._text = text

    def moving(self) -> Spinner:
        """For a terminal: redrawn all the time."""
        elapsed = int(monotonic() - self._began)
        clock = f"{elapsed // 3600}:{elapsed // 60 % 60:02}:{elapsed % 60:02}"
        text = Text.assemble((clock, "bold"), "  ", render.printable(self._text), "  ", (self._id, "dim"))
        text.truncate(render.err().width - 2, overflow="ellipsis")
        self._spinner.update(text=text)
        return self._spinner

    def print_change(self, view: ResponseView | None, text: str) -> None:
        """For a log: one line for each change, of which seconds that pass are none."""
        if NEXT_TRY.sub("", text) != NEXT_TRY.sub("", self._text):
            self.change(view, text)
            render.hint(f"{self._id} {self._text}".strip())
