"""Behind a pooler in transaction mode nothing depends on a session: jobs are accepted, called once and recorded."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import pgbouncer
from tests.support.pgbouncer import PgBouncerServer
from tests.support.stack import Stack

pytestmark = [pytest.mark.skipif(not pgbouncer.is_installed(), reason=pgbouncer.MISSING), pytest.mark.long]
JOBS = 60
CLIENTS = 6


@pytest.fixture
def pooler(postgres_url: str) -> Iterator[PgBouncerServer]:
    with PgBouncerServer(postgres_url) as server:
        yield server


def test_every_job_is_called_once_and_recorded(pooler: PgBouncerServer, valkey_url: str, tmp_path: Path) -> None:
    with Stack(pooler.url, valkey_url, tmp_path) as stack:
        with ThreadPoolExecutor(CLIENTS) as clients:
            prompts = ["[[sim: full delay=0]] Hello"] * CLIENTS
            submitted = clients.map(lambda prompt: stack.submit_many(JOBS // CLIENTS, prompt), prompts)
            jobs = [job for each in submitted for job in each]
        stack.await_all(jobs, "completed", 40)
        assert len(stack.calls()) == len(set(jobs)) == JOBS
        assert all(len(stack.attempts(job)) == 1 for job in jobs)
        assert "prepared statement" not in stack.logs()
        assert "could not record" not in stack.logs()
