"""Hosts with wrong clocks, or clocks set while jobs run: nothing is billed again, ended early or forgotten."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from tests.support.host_clock import HostClock
from tests.support.postgres import Databases, PostgresServer
from tests.support.preloaded import needs_compiler
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = [needs_compiler, pytest.mark.long]

WORKER_TIMEOUT = 3
START_SECONDS = 90
"""Seconds for the start of a process on a busy machine."""
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@contextmanager
def processes(
    url: str, redis_url: str, folder: Path, api: HostClock | None, worker: HostClock | None
) -> Iterator[Stack]:
    """One API and one worker, each on a host with the given clock."""
    settings = {"BACKBURNER_WORKER_TIMEOUT_SECONDS": str(WORKER_TIMEOUT)}
    environments = [settings | (clock.environment if clock else {}) for clock in (api, worker)]
    with Stack(url, redis_url, folder, environments[0], workers=0) as stack:
        stack.environment = environments[1]
        stack.worker_processes = [stack.start_worker()]
        stack.worker_processes[0].match("worker registered", START_SECONDS)
        yield stack


@pytest.mark.parametrize(
    ("api", "worker"),
    [(-HOUR, None), (2 * HOUR, None), (None, -2 * HOUR), (None, 2 * HOUR), (DAY, -DAY)],
    ids=["api behind", "api ahead", "worker behind", "worker ahead", "both"],
)
def test_hosts_that_are_hours_off_run_every_job_once_and_in_time(
    api: timedelta | None, worker: timedelta | None, postgres_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    clocks = [
        None if ahead is None else HostClock(tmp_path / name, ahead)
        for name, ahead in (("api", api), ("worker", worker))
    ]
    with processes(postgres_url, valkey.url, tmp_path, *clocks) as stack:
        began_at = time.time()
        soon = stack.submit("[[sim: full]] Hello", run_at=int(began_at) + 2, deadline_seconds=60)
        retried = stack.submit("[[sim: 500, then full]] Hello", deadline_seconds=60)
        jobs = [soon, retried, *stack.submit_many(5, "[[sim: full delay=1]] Hello", deadline_seconds=60)]
        stack.await_all(jobs, "completed", 20)
        assert {job_id: len(stack.calls(job_id)) for job_id in jobs} == {
            job_id: 1 + (job_id == retried) for job_id in jobs
        }
        assert abs(stack.get(soon)["created_at"] - began_at) < 3
        assert stack.attempts(soon)[0]["started_at"] >= int(began_at) + 2
        warned = "this host's clock is off" in stack.worker_processes[0].output
        assert warned == (worker is not None)
        late = stack.submit("[[sim: full delay=60]] Hello", deadline_seconds=3)
        stack.await_all([late], "failed", 10)
        assert stack.get(late)["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize("ahead", [HOUR, -HOUR, 2 * DAY], ids=["forward", "back", "days"])
@pytest.mark.parametrize("whose", ["one host", "the worker's", "the api's"])
def test_a_clock_that_is_set_mid_call_ends_nothing_and_leaves_nothing_to_lie(
    whose: str, ahead: timedelta, database_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    clock = HostClock(tmp_path / "host")
    if whose != "one host" and database_url.startswith("sqlite"):
        pytest.skip("on SQLite there is one host")
    clocks = (None if whose == "the worker's" else clock, None if whose == "the api's" else clock)
    with processes(database_url, valkey.url, tmp_path, *clocks) as stack:
        running = stack.submit_many(6, f"[[sim: full delay={3 * WORKER_TIMEOUT}]] Hello", deadline_seconds=60)
        await_until(lambda: len(stack.calls()) == len(running), 20, stack.logs)
        soon = stack.submit("[[sim: full]] Hello", run_at=int(time.time()) + 3, deadline_seconds=60)
        clock.set(ahead)
        retried = stack.submit("[[sim: 500, then full]] Hello", deadline_seconds=60)
        stack.await_all([soon, retried], "completed", 15)
        stack.await_all(running, "completed", 20)
        assert [len(stack.calls(job_id)) for job_id in (soon, *running)] == [1] * 7
        left = stack.submit_many(6, "[[sim: full delay=60, then full]] Hello", deadline_seconds=60)
        await_until(lambda: all(stack.calls(job_id) for job_id in left), 20, stack.logs)
        clock.set(timedelta(0) if whose == "one host" else -ahead)
        stack.start_worker().match("worker registered", START_SECONDS)
        stack.worker_processes[0].kill()
        stack.await_all(left, "completed", 3 * WORKER_TIMEOUT + 10)
        assert [len(stack.calls(job_id)) for job_id in left] == [2] * len(left)
        late = stack.submit("[[sim: full delay=60]] Hello", deadline_seconds=3)
        stack.await_all([late], "failed", 10)
        assert stack.get(late)["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["forward", "back"])
def test_on_sqlite_the_time_follows_the_hosts_clock_once_nothing_is_open(
    ahead: timedelta, sqlite_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    clock = HostClock(tmp_path / "host")
    with processes(sqlite_url, valkey.url, tmp_path, clock, clock) as stack:
        running = stack.submit("[[sim: full delay=6]] Hello", deadline_seconds=60)
        await_until(lambda: stack.calls(running), 20, stack.logs)
        clock.set(ahead)
        said = f"is {'1 h ahead of' if ahead > timedelta(0) else '1 h behind'} Backburner's time"
        await_until(lambda: said in str(httpx.get(f"{stack.url}/readyz").json()["warnings"]), 20, stack.logs)
        stack.await_all([running], "completed", 20)
        await_until(lambda: not httpx.get(f"{stack.url}/readyz").json()["warnings"], 90, stack.logs)
        after = stack.submit("[[sim: full]] Hello", deadline_seconds=30)
        stack.await_all([after], "completed", 20)
        assert abs(stack.get(after)["created_at"] - time.time() - ahead.total_seconds()) < 30
        assert [len(stack.calls(job_id)) for job_id in (running, after)] == [1, 1]
        assert "given up" not in stack.worker_processes[0].output


@pytest.fixture
def database_clock() -> Iterator[HostClock]:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the server runs as another user
        yield HostClock(Path(folder))


@pytest.fixture
def set_postgres_url(database_clock: HostClock) -> Iterator[str]:
    """A database on a host whose clock is `database_clock`."""
    server = PostgresServer()
    server.environment = database_clock.environment
    with server:
        yield Databases(server.url).migrated()


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["forward", "back"])
def test_postgresqls_own_clock_that_is_set_buys_nothing_twice_and_leaves_nothing_to_lie(
    ahead: timedelta, set_postgres_url: str, database_clock: HostClock, valkey: ValkeyServer, tmp_path: Path
) -> None:
    """A job whose deadline lies after the step does not end early; one whose deadline lies within it does."""
    with processes(set_postgres_url, valkey.url, tmp_path, None, None) as stack:
        stack.start_worker().match("worker registered", START_SECONDS)
        running = stack.submit_many(6, f"[[sim: full delay={3 * WORKER_TIMEOUT}]] Hello")
        await_until(lambda: len(stack.calls()) == len(running), 20, stack.logs)
        retried = stack.submit("[[sim: 500, then full]] Hello")
        database_clock.set(ahead)
        jobs = [retried, *stack.submit_many(5, "[[sim: full]] Hello")]
        stack.await_all([*jobs, *running], "completed", 30)
        assert [len(stack.calls(job_id)) for job_id in (*running, *jobs)] == [1] * 6 + [2] + [1] * 5
        assert not any("given up" in worker.output for worker in stack.worker_processes)
        left = stack.submit_many(6, "[[sim: full delay=12, then full]] Hello")
        await_until(lambda: all(stack.calls(job_id) for job_id in left), 20, stack.logs)
        database_clock.set(-ahead)
        stack.worker_processes[0].kill()
        stack.await_all(left, "completed", 3 * WORKER_TIMEOUT + 15)
        assert all(len(stack.calls(job_id)) <= 2 for job_id in left)


@pytest.mark.parametrize("with_api", [False, True], ids=["workers", "everything"])
def test_workers_that_are_frozen_together_give_up_nobody(
    with_api: bool, database_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    with processes(database_url, valkey.url, tmp_path, None, None) as stack:
        workers = [*stack.worker_processes, stack.start_worker()]
        workers[1].match("worker registered", START_SECONDS)
        jobs = stack.submit_many(6, f"[[sim: full delay={2 * WORKER_TIMEOUT}]] Hello")
        await_until(lambda: len(stack.calls()) == len(jobs), 20, stack.logs)
        frozen = [*workers, *([stack.api] if with_api else [])]
        for each in frozen:
            each.signal(signal.SIGSTOP)
        await_until(lambda: all(each["outcome"] == "answered" for each in stack.calls()), 20, stack.logs)
        for each in frozen:
            each.signal(signal.SIGCONT)
        stack.await_all(jobs, "completed", 20)
        assert len(stack.calls()) == len(jobs)
        assert not any("given up" in worker.output for worker in workers)
