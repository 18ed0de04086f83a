"""The Dockerfile puts all of Backburner into the image and nothing else. No engine builds it here.

`test_trip.py` shows that it works: its services run from an installation made in the same way.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Sequence
from itertools import pairwise

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.compose.composefile import DOTENV, ROOT, load
from tests.compose.containers import build_context

LOCK = "requirements/run.txt"


@pytest.fixture(scope="module")
def recipe() -> Sequence[tuple[str, str]]:
    """Return the Dockerfile's instructions."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def project() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def of(recipe: Sequence[tuple[str, str]], word: str) -> list[str]:
    return [rest for each, rest in recipe if each == word]


def test_it_is_built_from_the_hashed_lock(recipe: Sequence[tuple[str, str]]) -> None:
    installs = [shlex.split(rest) for rest in of(recipe, "RUN") if "pip install" in rest]
    locked, own = installs
    assert "--require-hashes" in locked
    assert ("--requirement", LOCK) in set(pairwise(locked))
    assert {"--no-deps", "--no-build-isolation"} <= set(own)


def test_the_lock_has_a_hash_for_every_dependency() -> None:
    entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^ *#.*\n?", "", (ROOT / LOCK).read_text("utf-8")).strip())
    assert all("--hash=sha256:" in entry for entry in entries)
    locked = {re.split(r"[=\[ ;]", entry)[0].lower().replace("_", "-") for entry in entries}
    declared = project()["dependencies"]
    assert isinstance(declared, list)
    needed = {Requirement(each).name.lower().replace("_", "-") for each in declared}
    assert needed | {"setuptools"} <= locked  # setuptools builds our package, without a download


def test_it_runs_a_supported_python(recipe: Sequence[tuple[str, str]]) -> None:
    (given,) = of(recipe, "ARG")
    version = re.fullmatch(r"PYTHON_IMAGE=python:([0-9.]+)-slim@sha256:[0-9a-f]{64}", given)
    assert version is not None
    assert version[1] in SpecifierSet(str(project()["requires-python"]))
    assert {rest.split()[0] for rest in of(recipe, "FROM")} == {"${PYTHON_IMAGE}"}


def test_it_runs_as_an_ordinary_user(recipe: Sequence[tuple[str, str]]) -> None:
    user, group = of(recipe, "USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0
    last_stage = recipe[max(place for place, (word, _) in enumerate(recipe) if word == "FROM") :]
    assert any(f"--uid {user} " in rest for rest in of(last_stage, "RUN"))
    assert last_stage.index(("USER", f"{user}:{group}")) < max(
        place for place, (word, _) in enumerate(last_stage) if word == "CMD"
    )


def test_its_only_setting_is_the_data_directory(recipe: Sequence[tuple[str, str]]) -> None:
    names = {name for rest in of(recipe, "ENV") for name in re.findall(r"(\w+)=", rest)}
    assert {name for name in names if name.startswith("BACKBURNER_")} == {"BACKBURNER_DATA_DIR"}
    assert not names & DOTENV.keys()


def test_its_user_can_write_the_data_directory(recipe: Sequence[tuple[str, str]]) -> None:
    directory = dict(pair.split("=", 1) for rest in of(recipe, "ENV") for pair in shlex.split(rest))[
        "BACKBURNER_DATA_DIR"
    ]
    user, group = of(recipe, "USER")[-1].split(":")
    for name, each in load(DOTENV).ours.items():
        if name == "worker":  # unrecorded answers outlive the container
            assert each.raw["volumes"] == [f"worker:{directory}"]
            assert each.raw["tmpfs"] == ["/tmp"]
        else:
            assert f"{directory}:uid={user},gid={group},mode=0700" in each.raw["tmpfs"]
    install = next(rest for rest in of(recipe, "RUN") if "install --directory" in rest)
    assert f"--owner backburner --group backburner --mode 0700 {directory}" in install


def test_the_build_context_has_our_packages_and_no_secret() -> None:
    first = next(line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#"))
    assert first == "*"
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]["find"]
    ours = {pattern.removesuffix("*") for pattern in packages["include"]}
    assert set(build_context()) == ours | {"requirements", "LICENSE", "README.md", "pyproject.toml"}
    assert all((ROOT / name).exists() for name in build_context())


def test_its_default_command_is_that_of_the_api_in_compose(recipe: Sequence[tuple[str, str]]) -> None:
    assert json.loads(of(recipe, "CMD")[-1]) == list(load(DOTENV).services["api"].command)
