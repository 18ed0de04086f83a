"""`docs/compatibility.md` names every method and parameter of the installed SDK, and only tests that exist."""

import inspect
import re
from collections.abc import Iterator
from functools import reduce
from typing import Any

import pytest
from openai import OpenAI

from tests.sdk import test_sdks
from tests.support.stack import ROOT

RESOURCES = (
    "responses",
    "responses.input_items",
    "responses.input_tokens",
    "models",
    "webhooks",
    "webhooks.event_types",
)
OF_EVERY_METHOD = {"extra_headers", "extra_query", "extra_body", "timeout"}
AS_CREATE = {"responses.parse", "responses.stream"}

PAGE = (ROOT / "docs/compatibility.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def methods() -> Iterator[tuple[str, Any]]:
    client = OpenAI(api_key="none")
    for resource in RESOURCES:
        found = reduce(getattr, resource.split("."), client)
        for name in dir(type(found)):
            method = getattr(found, name)
            if not name.startswith(("_", "with_")) and inspect.ismethod(method):
                yield f"{resource}.{name}", method
    client.close()


METHODS = dict(methods())


def tabled(method: str) -> set[str]:
    """The parameters in the first column of a method's table."""
    columns = re.findall(r"^\| (`.*?`) \|", SECTIONS[method], re.MULTILINE)
    return {name for column in columns for name in re.findall(r"`(\w+)`", column)}


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_is_tabled(method: str) -> None:
    parameters = set(inspect.signature(METHODS[method]).parameters) - OF_EVERY_METHOD
    inherited = tabled("responses.create") if method in AS_CREATE else set()
    assert tabled(method) <= parameters
    assert parameters <= tabled(method) | inherited


def test_no_method_is_tabled_that_there_is_not() -> None:
    assert {heading for heading in SECTIONS if "." in heading} == set(METHODS)


def test_every_trap_of_the_contract_has_a_test() -> None:
    """Section 0 of `openai/contract.md` numbers them; a test that would fall into one says so."""
    texts = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    named = {int(number) for text in texts for number in re.findall(r"\[0\.(\d+)\]", text)}
    assert named == set(range(1, 18))


def test_every_row_names_a_test() -> None:
    rows = re.findall(r"^\| `.*\|$", PAGE, re.MULTILINE)
    assert rows
    assert [row for row in rows if "`test_" not in row.rpartition(" | ")[2]] == []


def test_the_named_tests_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    tests = {name for name in vars(test_sdks) if name.startswith("test_")}
    assert named <= tests
    assert tests - named == {"test_every_scenario_has_a_test_and_runs_everywhere"}
