"""Outcomes that a worker has left in files of a shared folder are recorded, and their calls are not rescued."""

import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.backoff import Backoff
from jobs.job import Attempt, Job, Outcome
from jobs.lifecycle import Status
from jobs.outcome_files import FOLDER, unrecorded_files
from jobs.store.attempts import attempts_of
from tests.support.clock import Clock
from tests.support.dead_broker import DeadBroker, FakeNotifier
from tests.support.records import ANSWER, USAGE, Records
from worker.in_flight import InFlightCalls
from worker.maintenance import rescuer
from worker.orphaned_outcomes import OrphanedOutcomes
from worker.outcome import EndedCall, Policy, record_outcome
from worker.pending_outcomes import PendingOutcomes

SECOND = timedelta(seconds=1)
TIMEOUT = 10 * SECOND
ROOM_BYTES = 1_000_000
"""Room for the output of the test itself."""
POLICY = Policy(Backoff(SECOND, SECOND), call_deadline=SECOND, widen_on_overflow=False)


class Killed(BaseException):
    """A BaseException, so that no handler takes it for a failure of the database."""


def leave(folder: Path, job: Job, attempt: Attempt, clock: Clock) -> None:
    """Leave a file as a worker does that is killed before it records an answer."""
    with suppress(Killed), PendingOutcomes(folder).until_recorded(EndedCall(job, attempt, ANSWER, None, clock()), None):
        raise Killed
    assert len(unrecorded_files(folder)) == 1


def orphaned_outcomes(records: Records, folder: Path) -> OrphanedOutcomes:
    """Return the orphaned outcomes as another worker on this folder sees them."""
    return OrphanedOutcomes(
        records.database,
        PendingOutcomes(folder),
        lambda tx, ended: record_outcome(tx, ended, POLICY, 0.0),
        lambda *_: None,
    )


def rescue(records: Records, ends: OrphanedOutcomes, worker_id: str) -> int:
    records.clock.advance(2 * TIMEOUT)
    return rescuer.run_once(
        records.database, DeadBroker(), FakeNotifier(), records.clock(), TIMEOUT, outcome_files=ends
    )


def audit(records: Records, ends: OrphanedOutcomes, worker_id: str) -> int:
    now = records.clock.advance(rescuer.ORPHAN_AGE + SECOND)
    calls = InFlightCalls(on_end=lambda: None)
    return rescuer.rescue_orphans(
        records.database, DeadBroker(), FakeNotifier(), now, worker_id, calls, outcome_files=ends
    )


@pytest.mark.parametrize("take_back", [rescue, audit])
def test_outcomes_in_files_are_recorded_before_their_calls_are_rescued(
    records: Records, clock: Clock, tmp_path: Path, take_back: Callable[[Records, OrphanedOutcomes, str], int]
) -> None:
    worker_id = records.worker()
    known, lost = (records.claim(records.submit_job(), worker_id) for _ in range(2))
    leave(tmp_path, *known, clock)
    assert take_back(records, orphaned_outcomes(records, tmp_path), worker_id) == 1
    assert records.reload(lost[0]).status is Status.QUEUED
    assert records.reload(known[0]).status is Status.COMPLETED
    with records.database.read() as tx:
        [attempt] = attempts_of(tx, known[0].id)
    assert (attempt.outcome, attempt.usage) == (Outcome.COMPLETED, USAGE)
    assert unrecorded_files(tmp_path) == []


def test_a_call_with_an_unreadable_file_is_rescued(records: Records, clock: Clock, tmp_path: Path) -> None:
    worker_id = records.worker()
    job, attempt = records.claim(records.submit_job(), worker_id)
    leave(tmp_path, job, attempt, clock)
    unrecorded_files(tmp_path)[0].write_text("{")
    assert rescue(records, orphaned_outcomes(records, tmp_path), worker_id) == 1
    assert records.reload(job).status is Status.QUEUED


def test_a_call_whose_file_can_never_be_recorded_is_rescued_in_the_end(
    records: Records, clock: Clock, tmp_path: Path
) -> None:
    """Even if the file cannot be renamed."""
    worker_id = records.worker()
    job, attempt = records.claim(records.submit_job(), worker_id)
    leave(tmp_path, job, attempt, clock)

    def refuse(*_: object) -> None:
        raise ValueError("no")

    ends = OrphanedOutcomes(records.database, PendingOutcomes(tmp_path), refuse, refuse)
    (unrecorded_files(tmp_path)[0].with_suffix(".unknown") / "in the way").mkdir(parents=True)
    assert rescue(records, ends, worker_id) == 0
    assert rescue(records, ends, worker_id) == 1
    assert records.reload(job).status is Status.QUEUED


@pytest.mark.one_database
def test_a_half_written_file_is_deleted_once_no_worker_can_be_writing_it(records: Records, tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    old, new = folder / "resp_1-1.draft", folder / "resp_2-1.draft"
    for each in (old, new):
        each.write_text('{"half')
    os.utime(old, (time.time() - 3600,) * 2)
    orphaned_outcomes(records, tmp_path).record()
    assert [*folder.iterdir()] == [new]


@pytest.mark.one_database
def test_an_outcome_that_does_not_fit_on_the_disk_leaves_no_file(
    records: Records, clock: Clock, tmp_path: Path
) -> None:
    job, attempt = records.claim(records.submit_job(), records.worker())
    large = replace(ANSWER, raw=b" " * 2 * ROOM_BYTES)
    ends = PendingOutcomes(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with suppress(Killed), ends.until_recorded(EndedCall(job, attempt, large, None, clock()), None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, before[1]))
        try:
            assert ends.keep(0) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [*(tmp_path / FOLDER).iterdir()] == []
        assert ends.keep(0) == 0
