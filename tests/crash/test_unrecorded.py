"""Workers are stopped while the database takes no writes: no billed answer is lost, and none is billed again."""

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from jobs.outcome_files import unrecorded_files
from tests.crash.locked_database import (
    JOBS,
    answers_that_cannot_be_recorded,
    await_end,
    await_files,
    start,
    was_billed_once,
)
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until


@pytest.fixture
def stack(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    with start(database_url, valkey, tmp_path) as started:
        yield started


def test_a_stopping_worker_waits_for_the_database(stack: Stack) -> None:
    worker = stack.worker_processes[0]
    with answers_that_cannot_be_recorded(stack) as job_ids:
        worker.signal(signal.SIGTERM)
        await_files(stack)
    assert await_end(stack, worker, 20) == 0
    assert was_billed_once(stack, job_ids)
    assert unrecorded_files(stack.data_dir) == []


@pytest.mark.one_database
def test_outcomes_that_a_killed_worker_could_not_record_are_recorded_by_the_next(stack: Stack) -> None:
    worker = stack.worker_processes[0]
    with answers_that_cannot_be_recorded(stack) as job_ids:
        worker.signal(signal.SIGTERM)
        await_files(stack)
        worker.kill()
        files = unrecorded_files(stack.data_dir)
        assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
        assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700
    unreadable, foreign = files[0].with_name("broken.json"), files[0].with_name("foreign.json")
    unreadable.write_text("{")
    foreign.write_text(files[0].read_text().replace(job_ids[0], "resp_of_another_database"))
    other_database = files[1].rename(files[1].with_suffix(".unknown"))  # as a start on another database would
    stack.start_worker()
    assert was_billed_once(stack, job_ids)
    assert unrecorded_files(stack.data_dir) == []
    assert not other_database.exists()
    assert all(each.with_suffix(".unknown").exists() for each in (unreadable, foreign))


@pytest.mark.long
def test_a_worker_that_has_to_end_at_once_leaves_files(postgres_url: str, valkey: ValkeyServer, tmp_path: Path) -> None:
    """By a second Ctrl-C or SIGQUIT, even if a statement hangs in the database."""
    with start(postgres_url, valkey, tmp_path) as stack:
        worker = stack.worker_processes[0]
        with answers_that_cannot_be_recorded(stack) as job_ids:
            worker.signal(signal.SIGINT)
            worker.match("Ctrl-C again hands back what runs")
            worker.signal(signal.SIGINT)
            assert await_end(stack, worker, 30) == os.EX_TEMPFAIL
            await_files(stack)
        stack.start_worker()
        assert was_billed_once(stack, job_ids)
        assert unrecorded_files(stack.data_dir) == []


@pytest.mark.long
def test_a_locked_job_of_a_killed_worker_delays_neither_the_next_start_nor_other_jobs(
    postgres_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Another session's open transaction holds the row of one of them."""
    with start(postgres_url, valkey, tmp_path) as stack:
        worker = stack.worker_processes[0]
        with answers_that_cannot_be_recorded(stack) as job_ids:
            worker.signal(signal.SIGTERM)
            await_files(stack)
            worker.kill()
        stuck, *free = job_ids
        with psycopg.connect(postgres_url.replace("+psycopg", "")) as session:
            session.execute("SELECT id FROM jobs WHERE id = %s FOR UPDATE", (stuck,))
            stack.start_worker()
            stack.await_all([*free, stack.submit("[[sim: full delay=0]] Hello")], "completed", 20)
            assert len(unrecorded_files(stack.data_dir)) == 1
        stack.await_all([stuck], "completed", 20)
        assert [len(stack.calls(job_id)) for job_id in job_ids] == [1] * JOBS
        await_until(lambda: unrecorded_files(stack.data_dir) == [], 10, stack.logs)
