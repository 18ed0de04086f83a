"""Write the files that are drawn from code: `docs/lifecycle.md` and `.env.example`. A test compares them."""

from pathlib import Path

from jobs.lifecycle import OPEN, TRANSITIONS, Status
from jobs.settings import render_example

ROOT = Path(__file__).parents[1]


def render_lifecycle() -> str:
    """The transition table as a diagram and a table."""
    arrows = [
        f"    {source} --> {each.target}: {verb}"
        for verb, each in TRANSITIONS.items()
        for source in Status
        if source in each.sources
    ]
    rows = [
        f"| `{verb}` | {', '.join(f'`{source}`' for source in Status if source in each.sources)}"
        f" | `{each.target}` | {each.who} | {each.why} |"
        for verb, each in TRANSITIONS.items()
    ]
    return "\n".join(
        [
            "# The life of a response",
            "",
            "Drawn from `jobs/lifecycle.py` by `make docs`; that table is the only place that knows the arrows.",
            f"A response is open while it is {' or '.join(f'`{status}`' for status in Status if status in OPEN)};",
            "the other statuses are final, until a caller asks for a retry.",
            "Waiting for the next attempt is `queued` with `available_at` ahead.",
            "",
            "```mermaid",
            "stateDiagram-v2",
            f"    [*] --> {Status.QUEUED}: submit",
            *arrows,
            "```",
            "",
            "| verb | from | to | who | why |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


GENERATED = {ROOT / "docs/lifecycle.md": render_lifecycle, ROOT / ".env.example": render_example}

if __name__ == "__main__":
    for path, render in GENERATED.items():
        path.write_text(render(), "utf-8")
