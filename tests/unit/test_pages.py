"""The pages in docs/ name files and functions that exist."""

import re
from pathlib import Path

import pytest

from tests.support.stack import ROOT

PAGES = [*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PATH = re.compile(r"`((?:api|benchmarks|cli|docs|jobs|migrations|simulator|tests|worker)/[\w./-]+)`")
FUNCTION = re.compile(r"`([\w/]+\.py)`: `(\w+)`")
QUESTIONS = 40


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_only_files_that_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", prose(page))
    assert [each for each in links if not (page.parent / each).exists()] == []
    assert [each for each in PATH.findall(prose(page)) if not (ROOT / each).exists()] == []


def test_the_architecture_names_only_functions_that_exist() -> None:
    hops = FUNCTION.findall((ROOT / "docs/architecture.md").read_text("utf-8"))
    assert len(hops) >= 14
    missing = [
        (path, name) for path, name in hops if not re.search(rf"(def|class) {name}\b", (ROOT / path).read_text("utf-8"))
    ]
    assert missing == []


def test_each_question_of_the_glossary_is_answered_by_one_file() -> None:
    page = (ROOT / "docs/glossary.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+\?) \| `(.+)` \|$", page.partition("## Where is")[2], re.MULTILINE)
    answers = [path for _, path in rows]
    assert len(answers) == len(set(answers)) == QUESTIONS
    assert [each for each in answers if not (ROOT / each).is_file()] == []
