"""An installation in which every check of `doctor` passes."""

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from jobs.store import workers
from jobs.store.database import Database, database_now
from tests.cli.doctor.diagnosis import SECRET, Provider


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider that answers well."""
    provider = Provider()
    with ThreadingHTTPServer(("127.0.0.1", 0), provider.handler()) as server:
        provider.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield provider
        server.shutdown()
        thread.join()


@pytest.fixture
def healthy(
    home: Path, sqlite_url: str, valkey_url: str, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """Set an environment in which everything works. Tests change what is to be wrong."""
    settings = {
        "DATABASE_URL": sqlite_url,
        "REDIS_URL": valkey_url,
        "PROVIDER_BASE_URL": provider.url,
        "PROVIDER_API_KEY": SECRET,
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"BACKBURNER_{name}", value)
    database = Database(sqlite_url)
    with database.begin() as tx:
        workers.register(tx, "here", 1, 100, database_now(tx))
    database.close()
    return monkeypatch
