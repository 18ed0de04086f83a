"""The output of `up`: its own notes, and the lines of its children with their names in front.

Without a terminal it is plain text.
"""

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
    """Prints lines on stdout and flushes each of them."""

    def __init__(self) -> None:
        self._console = _PipeTolerantConsole(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)

    @property
    def is_terminal(self) -> bool:
        """True if stdout is a terminal."""
        return self._console.is_terminal

    def line(self, name: str, text: str) -> None:
        """Print a line that the child called `name` wrote. Empty lines are left out."""
        if not text.strip():
            return
        prefix = Text(f"{name:<{NAME_WIDTH}} | ", COLOURS.get(name, "white"))
        self._print(prefix + Text.from_ansi(text))

    def note(self, text: str) -> None:
        """Print a line of our own."""
        self._print(Text(f"{'backburner':<{NAME_WIDTH}}: ", "bold") + Text(text, "bold"))

    def loud(self, text: str) -> None:
        """Print a line that must not be overlooked."""
        self._print(Text(f" {text} " if self.is_terminal else text, "bold black on yellow"))

    def ready(self, facts: Sequence[tuple[str, str]], shell: Sequence[str], python: Sequence[str]) -> None:
        """Print that everything is ready: `facts` as a table, then lines to copy into a shell and into Python."""
        if self.is_terminal:
            table = Table.grid(padding=(0, 2))
            for name, value in facts:
                table.add_row(Text(name, "dim"), Text(value, "bold", overflow="fold"))
            self._print(
                Panel(table, title="Backburner is ready", title_align="left", border_style="green", expand=False)
            )
        else:
            self.note("ready")
            width = max(len(name) for name, _ in facts)
            for name, value in facts:
                self._print(Text(f"{name:<{width}}  {value}"))
        for lines, style in ((shell, "green"), (python, "cyan")):  # outside the frame, so that they can be copied
            self._print(Text())
            for line in lines:
                self._print(Text(line, style))

    def _print(self, output: Text | Panel) -> None:
        with suppress(OSError):  # the terminal is gone; everything keeps running
            self._console.print(output, soft_wrap=not isinstance(output, Panel))


class _PipeTolerantConsole(Console):
    """A console that survives when its reader closes the pipe, as in `up | head`."""

    def on_broken_pipe(self) -> None:
        """Print nothing from now on."""
        self.quiet = True
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())  # else the interpreter's own flush at exit fails
        os.close(devnull)
