"""Every way to start a worker gives one that works, on gevent, and stops when it is told to."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobs.celery_app import EXECUTE, create_celery
from jobs.settings import load_settings
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer

DOCUMENTED = ("celery", "-A", "worker.main", "worker")
ALONE, AS_IT_WAS = "worker.celery_adapter.command", "celery"


@pytest.fixture
def stack(valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path, workers=0) as started:
        yield started


@pytest.mark.parametrize(
    ("command", "becomes"),
    [
        (DOCUMENTED, ALONE),
        pytest.param(
            ("celery", "--app=worker.main", "-q", "worker", "-E", "--loglevel", "warning"),
            ALONE,
            marks=pytest.mark.long,
        ),
        pytest.param(("celery", "-A", "worker.main", "--no-color", "worker"), AS_IT_WAS, marks=pytest.mark.long),
        pytest.param((*DOCUMENTED, "-P", "gevent"), AS_IT_WAS, marks=pytest.mark.long),
        pytest.param(("worker.celery_adapter.command", "--quiet"), ALONE, marks=pytest.mark.long),
    ],
    ids=["documented", "with options", "with options of celery itself", "with its pool", "alone"],
)
def test_it_works(stack: Stack, command: tuple[str, ...], becomes: str) -> None:
    worker = stack.start_worker(*command)
    job_id = stack.submit("[[sim: full delay=0]] Hello")
    stack.await_all([job_id], "completed", 30)
    assert psutil.Process(worker.popen.pid).cmdline()[1:3] == ["-m", becomes]
    assert worker.stop() == 0, worker.output


@pytest.mark.long
@pytest.mark.parametrize("command", [DOCUMENTED, (*DOCUMENTED, "-P", "gevent"), ("worker.celery_adapter.command",)])
def test_settings_of_another_celery_application_change_nothing(
    stack: Stack, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery obeys these variables before its settings in code, some of them without its prefix."""
    for name in ("BROKER_URL", "CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "redis://127.0.0.1:1/0")
    for name in ("RESULT_BACKEND", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(name, "redis://127.0.0.1:1/1")
    monkeypatch.setenv("CONFIG_MODULE", "of.another.application")
    if "gevent" not in command:  # else Celery imports these before it imports us
        for name in ("CELERY_CONFIG_MODULE", "CELERY_LOADER"):
            monkeypatch.setenv(name, "of.another.application")
    monkeypatch.setenv("CELERY_TASK_ALWAYS_EAGER", "true")
    worker = stack.start_worker(*command)
    job_id = stack.submit("[[sim: full delay=0]] Hello")
    stack.await_all([job_id], "completed", 30)
    assert "CELERY_" in worker.output
    assert worker.stop() == 0, worker.output


def test_its_time_limits_end_no_call_and_buy_none_again(stack: Stack) -> None:
    worker = stack.start_worker("worker.celery_adapter.command", "--time-limit", "1", "--soft-time-limit", "1")
    worker.match("time limits have no effect")
    job_ids = stack.submit_many(3, "[[sim: full delay=2.5]] Hello")
    stack.await_all(job_ids, "completed", 30)
    assert [len(stack.calls(job_id)) for job_id in job_ids] == [1, 1, 1]


def test_a_task_cannot_be_terminated(stack: Stack, valkey: ValkeyServer) -> None:
    """Neither by a command nor by a time limit in a message, which anybody who reaches the broker can send."""
    job_id = stack.submit("[[sim: full delay=2.5]] Hello")
    app = create_celery(load_settings(redis_url=valkey.url))
    try:
        valkey.flush()
        app.send_task(EXECUTE, (job_id,), task_id=job_id, time_limit=1)
        stack.start_worker()
        stack.await_all([job_id], "in_progress", 20)
        app.control.terminate(job_id, signal="SIGKILL", reply=True, timeout=1)
        stack.await_all([job_id], "completed", 30)
    finally:
        app.close()
    assert len(stack.calls(job_id)) == 1


def test_plain_http_to_a_provider_elsewhere_is_warned_of(stack: Stack) -> None:
    stack.environment["BACKBURNER_PROVIDER_BASE_URL"] = "http://user:hush@provider.invalid/v1"
    worker = stack.start_worker()
    worker.match(r'"host": "provider.invalid".*plain http.*"level": "warning"')
    assert "hush" not in worker.output


@pytest.mark.long
def test_it_is_started_again_by_sighup(stack: Stack) -> None:
    worker = stack.start_worker(*DOCUMENTED)
    first = worker.match(r'"(wrk_\w+)".*worker registered')[1]
    worker.signal(signal.SIGHUP)  # Celery's sign to become a fresh worker in the same process
    worker.match(rf'"(?!{first})wrk_\w+".*worker registered')
    job_id = stack.submit("[[sim: full delay=0]] Hello")
    stack.await_all([job_id], "completed", 30)
