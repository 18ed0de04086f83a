"""One simulator per test process, reset before each test."""

from collections.abc import Iterator

import pytest

from tests.simulator.provider import Provider, running


@pytest.fixture(scope="session")
def shared_provider() -> Iterator[Provider]:
    with running() as provider:
        yield provider


@pytest.fixture
def provider(shared_provider: Provider) -> Provider:
    shared_provider.reset()
    return shared_provider
