"""One scenario of every client, for `make test`; `make test-clients` plays all of them."""

import pytest

from tests.clients.conftest import LOOPS, Played
from tests.clients.programs import CLIENTS, Client

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("client", [each for each in CLIENTS if each.smoke], ids=lambda client: client.name)
def test_the_client_works(client: Client, smoked: Played) -> None:
    run = smoked.runs[client.name]
    results = run.results["strict-plain"]
    assert list(results) == [client.smoke], run.errors
    failed = {name: result.error for name, result in results.items() if not result.passed}
    assert failed == {}


def test_the_provider_refuses_nothing_for_its_form(smoked: Played) -> None:
    assert smoked.call_logs["strict-plain"].refused == []


@pytest.mark.long
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_of_three_turns_breaks_none_of_openais_rules(name: str, looped: Played) -> None:
    """Clients send items, `previous_response_id` or `item_reference`, each in its own way."""
    run = looped.runs[name]
    results = run.results["openai-stream"]
    assert list(results) == ["three_turns"], run.errors
    assert {each: result.error for each, result in results.items() if not result.passed} == {}
    assert looped.call_logs["openai-stream"].refused == []
