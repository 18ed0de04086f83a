"""Real, unmodified clients: a scenario that passes against a lenient provider passes through this server as well.

Minutes long, and so not part of `make test`: `make test-clients` runs it, and `make test-clients MATRIX=write` writes
what it saw into docs/compatibility.md.
"""

import os

import pytest

from tests.clients import matrix
from tests.clients.conftest import Played
from tests.clients.faults import LACKED_BY_STRICT, expected
from tests.clients.programs import Client
from tests.clients.worlds import DIRECT, THROUGH

pytestmark = pytest.mark.timeout(1800)


def test_everything_works_with_the_provider_alone(client: Client, played: Played) -> None:
    """A scenario that fails without this server would prove nothing."""
    run = played.runs[client.name]
    assert run.results[DIRECT], run.errors
    failed = {name: result.error for name, result in run.results[DIRECT].items() if not result.passed}
    assert failed.keys() == expected(client.name, DIRECT), failed


@pytest.mark.parametrize("world", THROUGH)
def test_everything_works_here(client: Client, world: str, played: Played) -> None:
    run = played.runs[client.name]
    results = run.results[world]
    assert set(results) == set(run.scenarios), f"{client.name} never ended:\n{run.errors}"
    failed = {name: result.error for name, result in results.items() if not result.passed}
    assert failed.keys() == expected(client.name, world), failed


@pytest.mark.parametrize("world", THROUGH)
def test_a_paid_and_empty_answer_is_billed_once(client: Client, world: str, played: Played) -> None:
    billed_calls = matrix.billed_calls(played.runs[client.name], played.call_logs[world])
    assert billed_calls
    assert billed_calls == dict.fromkeys(billed_calls, 1)


@pytest.mark.parametrize("world", THROUGH)
def test_nothing_is_billed_twice(client: Client, world: str, played: Played) -> None:
    """The provider is called as often as by the client directly; tool loops take several calls."""
    run = played.runs[client.name]
    here, alone = run.results[world], run.results[DIRECT]
    empty = matrix.billed_calls(run, played.call_logs[world])
    comparable = [name for name in alone if name not in empty and alone[name].passed and here[name].passed]
    billed = {name: played.call_logs[world].billed_calls[client.name, name] for name in comparable}
    assert billed == {name: played.call_logs[DIRECT].billed_calls[client.name, name] for name in comparable}


@pytest.mark.parametrize("world", THROUGH)
def test_the_provider_refuses_nothing_for_its_form(world: str, played: Played) -> None:
    refused = {(client, scenario) for client, scenario, _ in played.call_logs[world].refused}
    lacked = {(client, scenario) for client, scenarios in LACKED_BY_STRICT.items() for scenario in scenarios}
    assert refused == (lacked if world.startswith("strict") else set())


def test_the_page_shows_what_was_seen(played: Played) -> None:
    table = matrix.table(played.runs, played.call_logs)
    if os.environ.get("MATRIX") == "write":
        matrix.write(table)
    assert matrix.shown() == table, "docs/compatibility.md is not up to date: run `make test-clients MATRIX=write`"
