"""What `up` shows: its own notes, and its children's lines behind their names. Plain lines where no terminal is."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

NAME_WIDTH = 9
COLOURS: Mapping[str, str] = {
    "api": "cyan",
    "worker": "green",
    "valkey": "magenta",
    "simulator": "yellow",
    "migrate": "blue",
}


class UpConsole:
    """Lines on stdout, each flushed when written."""

    def __init__(self) -> None:
        self._console = _LastingConsole(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)

    @property
    def is_terminal(self) -> bool:
        """Whether somebody is looking."""
        return self._console.is_terminal

    def line(self, name: str, text: str) -> None:
        """A line that the child called `name` wrote; empty ones say nothing."""
        if not text.strip():
            return
        prefix = Text(f"{name:<{NAME_WIDTH}} | ", COLOURS.get(name, "white"))
        self._show(prefix + Text.from_ansi(text))

    def note(self, text: str) -> None:
        """A line of our own."""
        self._show(Text(f"{'backburner':<{NAME_WIDTH}}: ", "bold") + Text(text, "bold"))

    def loud(self, text: str) -> None:
        """A line that must not be overlooked."""
        self._show(Text(f" {text} " if self.is_terminal else text, "bold black on yellow"))

    def ready(self, facts: Sequence[tuple[str, str]], shell: Sequence[str], python: Sequence[str]) -> None:
        """Where everything is, a line for the shell and a few for Python."""
        if self.is_terminal:
            table = Table.grid(padding=(0, 2))
            for name, value in facts:
                table.add_row(Text(name, "dim"), Text(value, "bold", overflow="fold"))
            self._show(
                Panel(table, title="Backburner is ready", title_align="left", border_style="green", expand=False)
            )
        else:
            self.note("ready")
            width = max(len(name) for name, _ in facts)
            for name, value in facts:
                self._show(Text(f"{name:<{width}}  {value}"))
        for lines, style in ((shell, "green"), (python, "cyan")):  # outside the frame, to be copied
            self._show(Text())
            for line in lines:
                self._show(Text(line, style))

    def _show(self, what: Text | Panel) -> None:
        with suppress(OSError):  # the terminal is gone; the work goes on
            self._console.print(what, soft_wrap=not isinstance(what, Panel))


class _LastingConsole(Console):
    """A console whose reader may leave without ending us, as `up | head` does."""

    def on_broken_pipe(self) -> None:
        """Say no more."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # else the interpreter's own flush at exit fails
        os.close(nowhere)
