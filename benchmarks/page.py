"""Write the saved results into `docs/performance.md`: a table and a chart between each benchmark's markers.

The markers are `<!-- NAME -->` and `<!-- /NAME -->`. `make bench` runs this, as does `python -m benchmarks.page`.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from benchmarks.report import FOLDER

PAGE: Final = FOLDER.with_suffix(".md")
_SECTION: Final = re.compile(r"(<!-- (?P<name>\w+) -->\n).*?(<!-- /(?P=name) -->)", re.DOTALL)


def write(page: Path = PAGE, folder: Path = FOLDER) -> None:
    """Rewrite every section that has saved results; leave the others unchanged."""

    def rewritten(section: re.Match[str]) -> str:
        saved = folder / f"{section['name']}.json"
        if not saved.exists():
            return section[0]
        return f"{section[1]}{render(json.loads(saved.read_text('utf-8')))}{section[3]}"

    page.write_text(_SECTION.sub(rewritten, page.read_text("utf-8")), "utf-8")


def render(results: dict[str, Any]) -> str:
    """Return the Markdown of a section: chart, table of medians, machine and date."""
    subjects = results["subjects"]
    figures = list(dict.fromkeys(name for each in subjects for name in each["medians"]))
    rows = [
        f"| {each['name']} | {each['role']} | {' | '.join(_shown(each['medians'].get(name)) for name in figures)} |"
        for each in subjects
    ]
    rounds = max(len(each["rounds"]) for each in subjects)
    how_often = "one round" if rounds == 1 else f"medians of {rounds} rounds"
    lines = [
        f"![{results['title']}](performance/{results['name']}.svg)",
        "",
        f"| | | {' | '.join(figures)} |",
        f"| --- | --- |{' ---: |' * len(figures)}",
        *rows,
        "",
        f"{results['title']}: {how_often}. {results['machine']}; {results['at']}.",
        *(f"{note[:1].upper()}{note[1:]}." for note in results["notes"]),
        "",
    ]
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


if __name__ == "__main__":
    write()
