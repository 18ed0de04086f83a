"""An API whose first key cannot be taken does not start, and says which variable to change."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.store.api_keys import create_key
from jobs.store.database import Database
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until


@pytest.fixture
def stack(valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path, workers=0) as started:
        yield started


def test_the_key_of_a_tenant_is_named_in_one_line(stack: Stack) -> None:
    database = Database(stack.database_url)
    with database.begin() as tx:
        key, secret = create_key(tx, "alice", None, datetime.now(UTC))
    database.close()
    stack.environment["BACKBURNER_API_KEY"] = secret
    stack._begin_api()
    await_until(lambda: stack.api.popen.poll() is not None, 20, stack.logs)
    assert stack.api.stop() != 0
    assert re.search(rf"BACKBURNER_API_KEY: .*'alice' \({key.id}\)", stack.api.output)
    assert "IntegrityError" not in stack.api.output
    assert secret not in stack.api.output
