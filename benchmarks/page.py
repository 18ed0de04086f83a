"""Puts what was measured into `docs/performance.md`: a table and a chart between each benchmark's markers.

`<!-- NAME -->` and `<!-- /NAME -->` are the markers; a run of `make bench` does it, and `python -m benchmarks.page`.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from benchmarks.report import FOLDER

PAGE: Final = FOLDER.with_suffix(".md")
_SECTION: Final = re.compile(r"(<!-- (?P<name>\w+) -->\n).*?(<!-- /(?P=name) -->)", re.DOTALL)


def write(page: Path = PAGE, folder: Path = FOLDER) -> None:
    """Draw every section whose findings are kept; the others stay as they are."""

    def drawn(section: re.Match[str]) -> str:
        kept = folder / f"{section['name']}.json"
        if not kept.exists():
            return section[0]
        return f"{section[1]}{render(json.loads(kept.read_text('utf-8')))}{section[3]}"

    page.write_text(_SECTION.sub(drawn, page.read_text("utf-8")), "utf-8")


def render(findings: dict[str, Any]) -> str:
    """The chart, the table of medians, and on what machine and when."""
    subjects = findings["subjects"]
    figures = list(dict.fromkeys(name for each in subjects for name in each["medians"]))
    rows = [
        f"| {each['name']} | {each['role']} | {' | '.join(_shown(each['medians'].get(name)) for name in figures)} |"
        for each in subjects
    ]
    rounds = max(len(each["rounds"]) for each in subjects)
    how_often = "one round" if rounds == 1 else f"medians of {rounds} rounds"
    lines = [
        f"![{findings['title']}](performance/{findings['name']}.svg)",
        "",
        f"| | | {' | '.join(figures)} |",
        f"| --- | --- |{' ---: |' * len(figures)}",
        *rows,
        "",
        f"{findings['title']}: {how_often}. {findings['machine']}; {findings['at']}.",
        *(f"{note[:1].upper()}{note[1:]}." for note in findings["notes"]),
        "",
    ]
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


if __name__ == "__main__":
    write()
