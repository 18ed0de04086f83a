"""Billed answers that cannot be recorded, because another session holds locks in the database."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg

from jobs.outcome_files import unrecorded_files
from tests.support.stack import Process, Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

JOBS = 3


def start(database_url: str, valkey: ValkeyServer, data_dir: Path, workers: int = 1, **settings: str) -> Stack:
    """Return a stack whose workers wait a second for their calls when they are stopped."""
    environment = {f"BACKBURNER_{name.upper()}": value for name, value in settings.items()}
    environment["BACKBURNER_SHUTDOWN_GRACE_SECONDS"] = "1"
    return Stack(database_url, valkey.url, data_dir, environment, workers)


@contextmanager
def locked(database_url: str) -> Iterator[None]:
    """Keep answers from being recorded within the block."""
    if database_url.startswith("sqlite"):
        path = database_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
        return
    with psycopg.connect(database_url.replace("+psycopg", "")) as connection:
        connection.execute("SELECT id FROM jobs FOR UPDATE")
        yield


@contextmanager
def answers_that_cannot_be_recorded(stack: Stack) -> Iterator[list[str]]:
    """Yield jobs whose calls are answered while the database is locked."""
    job_ids = stack.submit_many(JOBS, "[[sim: full delay=1]] Hello")
    stack.await_all(job_ids, "in_progress", 20)
    with locked(stack.database_url):
        await_until(lambda: [each["outcome"] for each in stack.calls()] == ["answered"] * JOBS, 10, stack.logs)
        yield job_ids


def await_files(stack: Stack) -> None:
    await_until(lambda: len(unrecorded_files(stack.data_dir)) == JOBS, 10, stack.logs)


def await_end(stack: Stack, worker: Process, seconds: float) -> int:
    await_until(lambda: worker.popen.poll() is not None, seconds, lambda: f"it did not end\n{stack.logs()}")
    return worker.popen.wait()


def was_billed_once(stack: Stack, job_ids: list[str]) -> bool:
    stack.await_all(job_ids, "completed", 30)
    return len(stack.calls()) == JOBS and [len(stack.attempts(job_id)) for job_id in job_ids] == [1] * JOBS
