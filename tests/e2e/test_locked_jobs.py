"""A transaction that locks one job delays no other answer; one that locks the provider limit delays no start."""

import time
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.support.stack import Stack
from tests.support.waiting import await_until

CALL_SECONDS = 3  # so that all are called before the first of them ends


def test_answers_are_recorded_while_one_job_is_locked_and_none_is_billed_again(
    postgres_url: str, valkey_url: str, tmp_path: Path
) -> None:
    with (
        Stack(postgres_url, valkey_url, tmp_path, provider_flags=("--delay", str(CALL_SECONDS))) as stack,
        psycopg.connect(postgres_url, autocommit=True) as looking,
        psycopg.connect(postgres_url) as session,
    ):

        def count(status: str) -> int:
            found = looking.execute("SELECT count(*) FROM jobs WHERE status = %s", (status,)).fetchone()
            assert found is not None
            return int(found[0])

        ids = stack.submit_many(20, "Hello")
        await_until(lambda: count("in_progress") == 20, 20, stack.logs)
        session.execute("SELECT 1 FROM jobs WHERE id = %s FOR UPDATE", (ids[10],))
        locked_at = time.monotonic()
        await_until(lambda: count("completed") == 19, CALL_SECONDS + 10, stack.logs)
        assert time.monotonic() - locked_at < CALL_SECONDS + 5
        later = stack.submit_many(5, "Hello again")
        await_until(lambda: count("completed") == 24, CALL_SECONDS + 10, stack.logs)
        stack.worker_processes[0].match("session blocks others")
        session.rollback()
        stack.await_all([*ids, *later], "completed", 15)
        assert len(stack.calls()) == 25


@pytest.mark.long
def test_a_worker_starts_while_the_provider_limit_is_locked(postgres_url: str, valkey_url: str, tmp_path: Path) -> None:
    """Each start used to end after a second, however often a supervisor tried again."""
    with Stack(postgres_url, valkey_url, tmp_path, workers=0) as stack, psycopg.connect(postgres_url) as session:
        provider_limit = httpx.URL(stack.provider_url).netloc.decode()
        session.execute("INSERT INTO provider_limits (name, probes) VALUES (%s, 0)", (provider_limit,))
        session.commit()
        session.execute("SELECT 1 FROM provider_limits FOR UPDATE")
        worker = stack.start_worker()
        stack.await_all([stack.submit("[[sim: full delay=0]] Hello")], "completed", 20)
        assert worker.popen.poll() is None
