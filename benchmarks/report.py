"""What one benchmark measured: printed as a table of medians, kept as JSON and as a chart.

A benchmark adds a sample for each subject and round; what is shown is the median over the rounds, with the ratio of
each subject to ours beside it.
"""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

FOLDER: Final = Path(__file__).parents[1] / "docs" / "performance"


class Role(StrEnum):
    """Why a subject stands in the table."""

    OURS = "ours"
    PLAIN = "plain way"
    PEER = "peer"
    LIMIT = "limit"


COLOURS: Final = {Role.OURS: "#2f6f4f", Role.PLAIN: "#b0584a", Role.PEER: "#7a86b8", Role.LIMIT: "#c9c9c9"}


@dataclass(frozen=True)
class Figure:
    """One column of the table. `name` says the unit (`accepted/s`, `p99 ms`)."""

    name: str
    digits: int = 1


@dataclass
class Subject:
    """Who was measured, and what came out, round by round: figure's name to value."""

    name: str
    role: Role
    rounds: list[dict[str, float]] = field(default_factory=list)

    def values(self, figure: Figure) -> list[float]:
        """What the rounds said of one figure; empty where it does not apply."""
        return [each[figure.name] for each in self.rounds if figure.name in each]

    def median(self, figure: Figure) -> float | None:
        """The middle one of them."""
        values = self.values(figure)
        return statistics.median(values) if values else None


class Report:
    """The findings of one benchmark; its first figure is drawn, and is what the ratios are about."""

    def __init__(self, name: str, title: str, figures: Sequence[Figure]) -> None:
        self.name = name
        self.title = title
        self.figures = figures
        self.subjects: list[Subject] = []
        self.notes: list[str] = []

    def add(self, subject: str, role: Role, values: dict[str, float]) -> None:
        """One round of one subject.

        Raises:
            ValueError: a value is of no figure of this report.
        """
        unknown = values.keys() - {figure.name for figure in self.figures}
        if unknown:
            raise ValueError(f"{self.name} has no figure {unknown}")
        found = next((each for each in self.subjects if each.name == subject), None)
        if found is None:
            found = Subject(subject, role)
            self.subjects.append(found)
        found.rounds.append(values)

    def note(self, line: str) -> None:
        """Say under the table what the figures do not (how many failed, what was set)."""
        self.notes.append(line)

    def show(self, console: Console) -> None:
        """Print the table."""
        table = Table(title=f"{self.title} ({self.rounds})", title_justify="left", caption="\n".join(self.notes))
        for header in ("", "role"):
            table.add_column(header)
        for figure in self.figures:
            table.add_column(figure.name, justify="right")
        compares = any(subject.role is not Role.OURS for subject in self.subjects)
        if compares:
            table.add_column(f"x ours ({self.figures[0].name})", justify="right")
        for subject in self.subjects:
            medians = [_shown(subject.median(figure), figure.digits) for figure in self.figures]
            ratio = [_shown(self._ratio(subject), 2)] if compares else []
            table.add_row(subject.name, subject.role, *medians, *ratio)
        console.print(table)

    def save(self, folder: Path = FOLDER) -> None:
        """Write `<name>.json` and `<name>.svg`."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"name": self.name, "title": self.title, "at": datetime.now(UTC).date().isoformat()}
        body = {**facts, "machine": machine(), "notes": self.notes, "subjects": [self._facts(s) for s in self.subjects]}
        (folder / f"{self.name}.json").write_text(json.dumps(body, indent=1) + "\n", "utf-8")
        self._draw(folder / f"{self.name}.svg")

    @property
    def rounds(self) -> str:
        """How often each was measured, in words."""
        most = max((len(each.rounds) for each in self.subjects), default=0)
        return "one round" if most == 1 else f"medians of {most} rounds"

    def _ratio(self, subject: Subject) -> float | None:
        ours = next((each for each in self.subjects if each.role is Role.OURS), None)
        mine = ours.median(self.figures[0]) if ours else None
        other = subject.median(self.figures[0])
        return None if not mine or other is None else other / mine

    def _facts(self, subject: Subject) -> dict[str, Any]:
        medians = {figure.name: subject.median(figure) for figure in self.figures}
        return {**asdict(subject), "medians": {name: value for name, value in medians.items() if value is not None}}

    def _draw(self, path: Path) -> None:
        import matplotlib as mpl  # noqa: PLC0415  # heavy, and a run without a chart needs none of it

        mpl.use("svg")
        mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "backburner"}
        from matplotlib import pyplot as plt  # noqa: PLC0415  # after the backend is chosen

        figure = self.figures[0]
        drawn = [each for each in reversed(self.subjects) if each.values(figure)]
        middles = [statistics.median(each.values(figure)) for each in drawn]
        spread = [
            [middle - min(each.values(figure)) for each, middle in zip(drawn, middles, strict=True)],
            [max(each.values(figure)) - middle for each, middle in zip(drawn, middles, strict=True)],
        ]
        canvas, axes = plt.subplots(figsize=(8, 0.6 + 0.42 * len(drawn)))
        names = [f"{each.name} ({each.role})" for each in drawn]
        bars = axes.barh(names, middles, xerr=spread, color=[COLOURS[each.role] for each in drawn], capsize=3)
        axes.bar_label(bars, labels=[_shown(each, figure.digits) for each in middles], padding=6)
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(f"{self.title}: {figure.name}", loc="left")
        canvas.savefig(path, bbox_inches="tight", metadata={"Date": None})
        plt.close(canvas)


def machine() -> str:
    """What this was measured on, in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{os.cpu_count()} cores {model or platform.machine()}, Python {platform.python_version()}"


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered)) - 1))]
