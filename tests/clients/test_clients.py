"""Real clients, unmodified: what passes against a lenient provider directly passes through this server, on every way.

Minutes long, and so not part of `make test`: `make test-clients` runs it, and `make test-clients MATRIX=write` writes
what it saw into docs/compatibility.md.
"""

import os

import pytest

from tests.clients import matrix
from tests.clients.conftest import Played
from tests.clients.faults import CLIENT_FAULTS
from tests.clients.programs import Client
from tests.clients.worlds import DIRECT, THROUGH

pytestmark = pytest.mark.timeout(1800)


def test_everything_works_with_the_provider_alone(client: Client, played: Played) -> None:
    """Else a scenario proves nothing; the faults that are the client's own are named, with the reason."""
    run = played.runs[client.name]
    assert run.scenarios, run.errors
    failed = {name for name, result in run.results[DIRECT].items() if not result.passed}
    assert failed == {name for name in CLIENT_FAULTS.get(client.name, {}) if name in run.results[DIRECT]}


@pytest.mark.parametrize("world", THROUGH)
def test_everything_works_here(client: Client, world: str, played: Played) -> None:
    run = played.runs[client.name]
    results = run.results[world]
    assert set(results) == set(run.scenarios), f"{client.name} never ended:\n{run.errors}"
    failed = {name: result.error for name, result in results.items() if not result.passed}
    for name in CLIENT_FAULTS.get(client.name, {}):
        failed.pop(name, None)
    assert failed == {}


@pytest.mark.parametrize("world", THROUGH)
def test_a_paid_and_empty_answer_is_bought_once(client: Client, world: str, played: Played) -> None:
    purchases = matrix.purchases(played.runs[client.name], played.ledgers[world])
    assert purchases
    assert purchases == dict.fromkeys(purchases, 1)


@pytest.mark.parametrize("world", THROUGH)
def test_the_provider_refuses_nothing_for_its_form(world: str, played: Played) -> None:
    assert played.ledgers[world].refused == []


def test_the_page_shows_what_was_seen(played: Played) -> None:
    table = matrix.table(played.runs, played.ledgers)
    if os.environ.get("MATRIX") == "write":
        matrix.write(table)
    assert matrix.shown() == table, "docs/compatibility.md is not up to date: run `make test-clients MATRIX=write`"
