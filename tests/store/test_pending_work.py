"""An idle worker finds the periodic tasks that have work by one query."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from datetime import timedelta

import pytest
from sqlalchemy import insert, update

from jobs.lifecycle import Status, Verb
from jobs.store import schema
from jobs.store.database import database_now
from jobs.store.leases import take_lease_now
from jobs.store.pending_work import PeriodicTask, tasks_with_work
from jobs.store.provider_limits import ProviderLimitSettings
from jobs.store.reconciliation import NO_LOG_WAIT
from jobs.store.workers import heartbeat_now, leave, live_workers
from tests.support.dead_broker import DeadBroker, FakeNotifier
from tests.support.plans import captured
from tests.support.records import Records, move_one
from worker.maintenance import loop
from worker.maintenance.loop import Maintenance
from worker.registration import WorkerRegistration

TIMEOUT = timedelta(seconds=10)
DAY = timedelta(days=1)


def due(records: Records) -> AbstractSet[PeriodicTask]:
    with records.database.read() as tx:
        return tasks_with_work(tx, records.clock(), TIMEOUT, "provider_limit")


def nothing_happens(_records: Records) -> None:
    pass


def a_call_is_running(records: Records) -> None:
    records.job_in(Status.IN_PROGRESS)


def a_job_is_queued(records: Records) -> None:
    records.submit_job()


def a_worker_is_silent(records: Records) -> None:
    records.clock.advance(TIMEOUT + timedelta(seconds=1))


def a_worker_ended_with_a_call(records: Records) -> None:
    records.claim(records.submit_job())
    with records.database.begin() as tx:
        leave(tx, records.worker_id, records.clock())


def an_ended_worker_left_a_call_open(records: Records) -> None:
    job, _ = records.claim(records.submit_job())
    with records.database.begin() as tx:
        move_one(tx, Verb.CANCEL, job, records.clock())
        leave(tx, records.worker_id, records.clock())


def a_job_is_overdue(records: Records) -> None:
    records.claim(records.submit_job(deadline_at=records.clock() + timedelta(seconds=5)))
    records.clock.advance(timedelta(seconds=5))


def a_job_is_parked(records: Records) -> None:
    job = records.submit_job()
    with records.database.begin() as tx:
        values = {"parked_until": records.clock() + DAY}
        tx.execute(update(schema.jobs).where(schema.jobs.c.id == job.id).values(values))


def a_parked_jobs_wait_is_over(records: Records) -> None:
    a_job_is_parked(records)
    with records.database.begin() as tx:
        tx.execute(update(schema.jobs).values(parked_until=records.clock(), deadline_at=records.clock() + DAY))


def a_follow_up_may_run(records: Records) -> None:
    before = records.job_in(Status.COMPLETED)
    _waiting_for(records, before.id)


def a_follow_up_waits(records: Records) -> None:
    job, _ = records.claim(records.submit_job())
    _waiting_for(records, job.id)


def _waiting_for(records: Records, job_id: str) -> None:
    job = records.submit_job(previous_response_id=job_id)
    with records.database.begin() as tx:
        tx.execute(update(schema.jobs).where(schema.jobs.c.id == job.id).values(blocked_by=job_id))


def the_provider_is_throttled(records: Records) -> None:
    with records.database.begin() as tx:
        tx.execute(insert(schema.provider_limits).values(name="provider_limit", probes=0, max_calls=3))


def a_call_was_lost(records: Records) -> None:
    job, _ = records.claim(records.submit_job())
    values = {"ended_at": records.clock(), "outcome": "lost", "billed": "unknown", "provider_response_id": "resp_1"}
    with records.database.begin() as tx:
        tx.execute(update(schema.attempts).where(schema.attempts.c.job_id == job.id).values(values))


def a_copy_is_unwanted(records: Records) -> None:
    job = records.job_in(Status.COMPLETED)
    with records.database.begin() as tx:
        tx.execute(update(schema.attempts).where(schema.attempts.c.job_id == job.id).values(copy_unwanted=True))


WORK: dict[Callable[[Records], None], AbstractSet[PeriodicTask]] = {
    nothing_happens: set(),
    a_call_is_running: set(),
    a_job_is_queued: {PeriodicTask.ENQUEUER},
    a_worker_is_silent: {PeriodicTask.RESCUER},
    a_worker_ended_with_a_call: {PeriodicTask.RESCUER},
    an_ended_worker_left_a_call_open: {PeriodicTask.RESCUER},
    a_job_is_overdue: {PeriodicTask.DEADLINES},
    a_job_is_parked: {PeriodicTask.RECONCILIATION},
    a_parked_jobs_wait_is_over: {PeriodicTask.RECONCILIATION, PeriodicTask.DEADLINES},
    a_follow_up_may_run: {PeriodicTask.ENQUEUER, PeriodicTask.FOLLOW_UPS},
    a_follow_up_waits: {PeriodicTask.ENQUEUER},
    the_provider_is_throttled: {PeriodicTask.ENQUEUER},
    a_call_was_lost: {PeriodicTask.RECONCILIATION, PeriodicTask.CANCELLATION},
    a_copy_is_unwanted: {PeriodicTask.ERASURE},
}


@pytest.mark.parametrize("happen", WORK, ids=lambda happen: happen.__name__)
def test_a_task_runs_if_it_has_work(records: Records, happen: Callable[[Records], None]) -> None:
    happen(records)
    assert due(records) == WORK[happen]


def test_an_idle_lease_holder_makes_one_query_for_all_tasks(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "TICK", 0.0)
    maintenance = Maintenance(
        records.database,
        WorkerRegistration(records.database, 1, records.worker_id),
        DeadBroker(),
        FakeNotifier(),
        provider_limit=ProviderLimitSettings("provider_limit"),
        worker_timeout=3650 * DAY,
        retention=DAY,
        max_wait=NO_LOG_WAIT,
    )
    maintenance.run_once()  # runs the tasks that are due once a minute or more rarely
    with captured(records.database) as statements:
        maintenance.run_once()
    assert len([each for each in statements if not each.sql.startswith("BEGIN")]) == 1


def test_a_heartbeat_and_a_lease_are_one_statement_each(records: Records) -> None:
    with captured(records.database) as statements:
        assert take_lease_now(records.database, "a duty", records.worker_id, DAY, within=5)
        assert heartbeat_now(records.database, records.worker_id, within=5)
        assert not heartbeat_now(records.database, "wrk_unknown", within=5)
        assert not take_lease_now(records.database, "a duty", "wrk_2", DAY, within=5)
    assert len([each for each in statements if not each.sql.startswith("BEGIN")]) == 4
    with records.database.read() as tx:
        [alive] = live_workers(tx, database_now(tx), TIMEOUT)
        assert alive.id == records.worker_id
