from collections.abc import Iterator

import pytest

from jobs.store.database import Database


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[Database]:
    opened = Database(postgres_url)
    yield opened
    opened.close()
