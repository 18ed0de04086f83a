"""Check the words of the code: how docstrings open, and which words identifiers hold. `make check` runs it.

The rules are those of `docs/glossary.md`. A finding is one line, `path:line: reason`; with any, the exit code is 1.
"""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
FOLDERS: Final = ("api", "benchmarks", "cli", "docs", "jobs", "migrations", "simulator", "tests", "worker")
FOREIGN: Final = ("tests/clients/python/", "tests/sdk/python/", "node_modules/")
"""Programs written in the words of somebody else's library, and packages."""
OPENINGS: Final = re.compile(r"(What|Who|Whom|Whose|How|Where|Whether)\b")
PRIVATE: Final = frozenset(
    (
        "bell",
        "bells",
        "doorbell",
        "rung",
        "lane",
        "lanes",
        "runlist",
        "intake",
        "owed",
        "debt",
        "debts",
        "owing",
        "announcer",
        "expectation",
        "told",
        "heard",
        "hear",
        "tell",
        "patrol",
        "duty",
        "duties",
        "patience",
        "sealed",
        "unseal",
        "bought",
        "purchase",
        "purchases",
        "strand",
        "stranded",
        "revive",
        "revived",
        "leash",
        "impatience",
        "hurry",
        "farewell",
        "birth",
    )
)
"""Words that only this project's authors would understand; the glossary has the field's."""
PUBLIC: Final = frozenset(("held_patience_seconds", "reconcile_patience_seconds"))
"""Settings whose names outside clients rely on."""
_WORDS: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")


def main(folders: Sequence[str] = FOLDERS) -> int:
    """Print every finding under `folders`, relative to the repository; return the exit code."""
    count = 0
    for folder in folders:
        for path in sorted(ROOT.glob(f"{folder}/**/*.py") if (ROOT / folder).is_dir() else ROOT.glob(folder)):
            name = path.relative_to(ROOT).as_posix()
            if any(part in name for part in FOREIGN):
                continue
            for line, reason in sorted(_findings(ast.parse(path.read_text()))):
                print(f"{name}:{line}: {reason}")
                count += 1
    if count:
        print(f"{count} findings; docs/glossary.md has the rules")
    return int(count > 0)


def _findings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        for statement in getattr(node, "body", ()) if not isinstance(node, ast.Lambda | ast.IfExp) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                text = statement.value.value
                if isinstance(text, str) and (opening := OPENINGS.match(text.lstrip())):
                    yield statement.lineno, f"a docstring opens with '{opening[0]}'"
        for name in _names(node):
            words = {word.lower() for word in _WORDS.findall(name)}
            if name not in PUBLIC and (private := words & PRIVATE):
                yield getattr(node, "lineno", 1), f"'{name}' holds the private word '{min(private)}'"


def _names(node: ast.AST) -> Iterator[str]:
    """Yield the names that `node` defines; uses of a name are found where it is defined."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.arg(arg=name):
            yield name
        case ast.Name(id=name, ctx=ast.Store()):
            yield name
        case ast.Attribute(attr=name, ctx=ast.Store()):
            yield name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or FOLDERS))
