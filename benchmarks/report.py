"""The results of one benchmark: printed as a table of medians, and saved as JSON and as a chart.

A benchmark adds a sample for each subject and round. The table shows the median of the rounds, and the ratio of each
subject to ours.
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
    """The role of a subject in the comparison."""

    OURS = "ours"
    PLAIN = "plain way"
    PEER = "peer"
    LIMIT = "limit"


COLOURS: Final = {Role.OURS: "#2f6f4f", Role.PLAIN: "#b0584a", Role.PEER: "#7a86b8", Role.LIMIT: "#c9c9c9"}


@dataclass(frozen=True)
class Figure:
    """A column of the table. `name` includes the unit (`accepted/s`, `p99 ms`)."""

    name: str
    digits: int = 1


@dataclass
class Subject:
    """A measured program, and its values by the name of the figure, for each round."""

    name: str
    role: Role
    rounds: list[dict[str, float]] = field(default_factory=list)

    def values(self, figure: Figure) -> list[float]:
        """Return the values of a figure, round by round. Empty if it does not apply to this subject."""
        return [each[figure.name] for each in self.rounds if figure.name in each]

    def median(self, figure: Figure) -> float | None:
        """Return the median of a figure, or None if it does not apply."""
        values = self.values(figure)
        return statistics.median(values) if values else None


class Report:
    """The results of one benchmark. The chart and the ratios show its first figure."""

    def __init__(self, name: str, title: str, figures: Sequence[Figure]) -> None:
        self.name = name
        self.title = title
        self.figures = figures
        self.subjects: list[Subject] = []
        self.notes: list[str] = []

    def add(self, subject: str, role: Role, values: dict[str, float]) -> None:
        """Add one round of one subject.

        Raises:
            ValueError: a value belongs to no figure of this report.
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
        """Add a remark below the table, such as the number of failures or a setting."""
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
        """The number of rounds, in words."""
        most = max((len(each.rounds) for each in self.subjects), default=0)
        return "one round" if most == 1 else f"medians of {most} rounds"

    def _ratio(self, subject: Subject) -> float | None:
        ours = next((each for each in self.subjects if each.role is Role.OURS), None)
        our_value = ours.median(self.figures[0]) if ours else None
        value = subject.median(self.figures[0])
        return None if not our_value or value is None else value / our_value

    def _facts(self, subject: Subject) -> dict[str, Any]:
        medians = {figure.name: subject.median(figure) for figure in self.figures}
        return {**asdict(subject), "medians": {name: value for name, value in medians.items() if value is not None}}

    def _draw(self, path: Path) -> None:
        import matplotlib as mpl  # noqa: PLC0415  # slow to import, and only needed for charts

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
    """Describe this machine in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{os.cpu_count()} cores {model or platform.machine()}, Python {platform.python_version()}"


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` percent of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered)) - 1))]
