"""One scenario of every client, for `make test`; `make test-clients` plays all of them."""

import pytest

from tests.clients.conftest import Played
from tests.clients.programs import Client

pytestmark = pytest.mark.timeout(300)


def test_the_client_works(client: Client, smoked: Played) -> None:
    if client.smoke is None:
        pytest.skip(f"{client.title} is installed for `make test-clients` only")
    run = smoked.runs[client.name]
    results = run.results["strict-plain"]
    assert list(results) == [client.smoke], run.errors
    assert results[client.smoke].passed, results[client.smoke].error


def test_the_provider_refuses_nothing_for_its_form(smoked: Played) -> None:
    assert smoked.ledgers["strict-plain"].refused == []
