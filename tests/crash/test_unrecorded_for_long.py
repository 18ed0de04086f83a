"""Billed answers that cannot be recorded for longer than anything but their worker waits."""

import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from jobs.outcome_files import unrecorded_files
from tests.cli.running import COMMAND, Running, environment
from tests.crash.locked_database import (
    JOBS,
    answers_that_cannot_be_recorded,
    await_end,
    await_files,
    start,
    was_billed_once,
)
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until
from worker.process import RECORDING_SECONDS

pytestmark = pytest.mark.long

GRACE_SECONDS = 1


@pytest.mark.one_database
def test_neither_the_grace_nor_the_time_for_recording_ends_a_worker_that_holds_answers(
    database_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    with start(database_url, valkey, tmp_path) as stack:
        worker = stack.worker_processes[0]
        with answers_that_cannot_be_recorded(stack) as job_ids:
            stopped_at = time.monotonic()
            worker.signal(signal.SIGTERM)
            worker.match("paid answers are not recorded yet, waiting")
            await_until(
                lambda: time.monotonic() - stopped_at > GRACE_SECONDS + RECORDING_SECONDS + 3, 30, "time stands still"
            )
            assert worker.popen.poll() is None
        assert await_end(stack, worker, 20) == 0
        assert was_billed_once(stack, job_ids)
        assert unrecorded_files(tmp_path) == []


def test_a_worker_with_the_same_folder_records_the_outcomes_of_a_killed_one(
    postgres_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    """As under `backburner worker --processes 2`: it treated the calls as lost before the killed one was back."""
    with start(postgres_url, valkey, tmp_path, workers=2, worker_timeout_seconds="3") as stack:
        with answers_that_cannot_be_recorded(stack) as job_ids:
            await_files(stack)
            with psycopg.connect(postgres_url.replace("+psycopg", "")) as session:
                found = session.execute(
                    "SELECT pid FROM workers WHERE id = (SELECT worker_id FROM jobs WHERE id = %s)", (job_ids[0],)
                ).fetchone()
            assert found is not None
            [killed] = [each for each in stack.worker_processes if each.popen.pid == found[0]]
            killed.kill()
        assert was_billed_once(stack, job_ids)
        await_until(lambda: unrecorded_files(tmp_path) == [], 10, stack.logs)


@pytest.mark.one_database
def test_ctrl_c_of_up_waits_for_a_locked_database_and_says_so(tmp_path: Path) -> None:
    settings = {"port": "0", "shutdown_grace_seconds": "1"}
    with Running((*COMMAND, "up"), tmp_path, environment(**settings)) as up:
        base_url = up.match(r"base URL +(http://127\.0\.0\.1:\d+/v1)")[1]
        up.match(r"^print\(client")
        data = tmp_path / ".backburner"
        key = (data / "api_key").read_text()
        create = {"model": "openai/o3-pro", "input": "[[sim: full delay=2]] Hello", "background": True}
        with httpx.Client(base_url=base_url, headers={"authorization": f"Bearer {key}"}) as http:
            for _ in range(JOBS):
                http.post("/responses", json=create).raise_for_status()
        await_until(lambda: rows(data, "SELECT status FROM jobs") == [("in_progress",)] * JOBS, 20, lambda: up.output)
        with closing(sqlite3.connect(data / "backburner.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await_until(lambda: len(unrecorded_files(data)) == JOBS, 20, lambda: up.output)
            up.signal(signal.SIGINT)
            up.match(f"recording {JOBS} paid answers, the database is locked; Ctrl-C again gives them up")
            began = time.monotonic()
            await_until(lambda: time.monotonic() - began > GRACE_SECONDS + RECORDING_SECONDS + 3, 30, "no time passes")
            assert up.popen.poll() is None
        assert up.exit_status() == 0
        assert rows(data, "SELECT status FROM jobs") == [("completed",)] * JOBS
        assert rows(data, "SELECT number, outcome FROM attempts") == [(1, "completed")] * JOBS
        assert unrecorded_files(data) == []


def rows(data_dir: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(data_dir / "backburner.db")) as connection:
        return connection.execute(query).fetchall()
