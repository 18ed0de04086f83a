"""One served API per database and test process. Each test has its own API key, which has no responses yet."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.api.world import FakeWorker, Server, Tenant, a_tenant, serve, settings_for
from tests.conftest import BACKENDS, migrated_database
from tests.support.valkey import ValkeyServer


@pytest.fixture(scope="session", params=BACKENDS)
def shared_database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a migrated database for all tests of this process, once per supported database."""
    with migrated_database(request, request.param) as url:
        yield url


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as valkey:
        yield valkey


@pytest.fixture(scope="session")
def server(shared_database_url: str, shared_valkey: ValkeyServer) -> Iterator[Server]:
    """The shared API. A test that needs other settings, or an API alone, serves its own."""
    with serve(settings_for(shared_database_url, shared_valkey.url)) as server:
        yield server


@pytest.fixture
def tenant(server: Server) -> Iterator[Tenant]:
    with a_tenant(server) as tenant:
        yield tenant


@pytest.fixture
def other(server: Server) -> Iterator[Tenant]:
    """A second tenant."""
    with a_tenant(server) as other:
        yield other


@pytest.fixture
def worker(server: Server) -> FakeWorker:
    return FakeWorker(server)


@pytest.fixture
def sdk(server: Server, tenant: Tenant) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{server.url}/v1", api_key=tenant.secret, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client
