"""Checks of the workers: that they live, listen, record and have the right time; and of the data directory."""

from datetime import timedelta
from pathlib import Path

import pytest

from jobs.store import workers
from jobs.store.database import Database, database_now
from jobs.store.undelivered_creates import ApiProcess, record_heartbeat
from tests.cli.doctor.diagnosis import diagnose
from tests.support.records import make_key, make_spec, submit_one


def test_a_dead_worker_does_not_count(healthy: pytest.MonkeyPatch, sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.begin() as tx:
        workers.mark_silent_dead(tx, database_now(tx) + timedelta(minutes=1), timedelta(seconds=10))
    database.close()
    status, results = diagnose()
    assert (status, results["worker"][0]["message"]) == (1, "no live worker: submitted jobs stay queued")


def test_a_worker_that_listens_to_no_queue_is_an_error_and_the_waiting_job_is_named(
    healthy: pytest.MonkeyPatch, sqlite_url: str
) -> None:
    database = Database(sqlite_url)
    with database.begin() as tx:
        now = database_now(tx)
        (worker,) = workers.live_workers(tx, now, timedelta(seconds=10))
        assert workers.heartbeat(tx, worker.id, now, report=workers.Report((), 100, None))
    key = make_key(database, "a key", now - timedelta(minutes=1))
    with database.begin() as tx:
        job = submit_one(tx, make_spec(key.id, deadline_at=now + timedelta(days=1)), now - timedelta(minutes=1))
    database.close()
    status, results = diagnose()
    reason = "no live worker listens to the queue of jobs: here (process 1)"
    assert (status, results["worker"][0]["message"]) == (1, f"{reason}: submitted jobs stay queued")
    waiting = results["waiting"][0]
    assert waiting["status"] == "error"
    assert waiting["message"].startswith(f"{job.id} is due for 6")
    assert waiting["message"].endswith(reason)


def register_with_report(sqlite_url: str, report: workers.Report) -> None:
    database = Database(sqlite_url)
    with database.begin() as tx:
        now = database_now(tx)
        worker_id = workers.register(tx, "there", 4711, 100, now)
        assert workers.heartbeat(tx, worker_id, now, report=report)
    database.close()


def test_a_worker_that_is_short_of_something_is_a_warning(healthy: pytest.MonkeyPatch, sqlite_url: str) -> None:
    register_with_report(sqlite_url, workers.Report(None, 40, None, "too many open files"))
    status, results = diagnose()
    assert (status, results["limits"][0]["status"]) == (0, "warning")
    assert results["limits"][0]["message"] == "worker 4711 on there holds 40 calls at most: too many open files"


def test_a_worker_that_cannot_record_answers_is_a_warning(healthy: pytest.MonkeyPatch, sqlite_url: str) -> None:
    register_with_report(sqlite_url, workers.Report(None, 100, None, unrecorded=15))
    status, results = diagnose()
    assert (status, results["answers"][0]["status"]) == (0, "warning")
    assert results["answers"][0]["message"].startswith("worker 4711 on there cannot record 15 paid answers")


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (timedelta(hours=1, minutes=30), "is 1 h 30 min ahead of"),
        (timedelta(days=-2, seconds=-30), "is 2 d behind"),
        (timedelta(seconds=5), "is 5 s ahead of"),
    ],
)
def test_a_host_with_a_wrong_clock_is_a_warning(
    ahead: timedelta, words: str, healthy: pytest.MonkeyPatch, sqlite_url: str
) -> None:
    register_with_report(sqlite_url, workers.Report(None, 100, None, host_ahead=ahead))
    database = Database(sqlite_url)
    with database.begin() as tx:
        record_heartbeat(tx, ApiProcess("api_1", "elsewhere", 815, ahead.total_seconds()), database_now(tx))
    database.close()
    status, results = diagnose()
    assert (status, {each["status"] for each in results["clocks"]}) == (0, {"warning"})
    assert [each["message"] for each in results["clocks"]] == [
        f"the clock of host elsewhere {words} Backburner's time, says API process 815 there",
        f"the clock of host there {words} Backburner's time, says worker 4711 there",
    ]
    assert all("NTP" in each["hint"] for each in results["clocks"])


def test_clocks_within_five_seconds_are_no_warning(healthy: pytest.MonkeyPatch, sqlite_url: str) -> None:
    register_with_report(sqlite_url, workers.Report(None, 100, None, host_ahead=timedelta(seconds=-4)))
    assert diagnose()[1]["clocks"][0]["status"] == "ok"


def test_a_data_directory_that_others_can_read_is_a_warning(healthy: pytest.MonkeyPatch, home: Path) -> None:
    (home / ".backburner").mkdir(mode=0o755)
    _, results = diagnose()
    assert results["data dir"][0]["status"] == "warning"
