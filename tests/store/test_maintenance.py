"""The maintenance loop works off a backlog in steps, one right after the other."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

import worker.maintenance.loop
from jobs.lifecycle import Status
from jobs.store import schema
from jobs.store.provider_limits import ProviderLimitSettings
from jobs.store.reconciliation import NO_LOG_WAIT
from jobs.store.workers import register
from tests.support.dead_broker import DeadBroker, FakeNotifier
from tests.support.records import Records
from tests.support.waiting import await_until
from worker.maintenance import deadlines, pruner
from worker.maintenance.loop import Maintenance
from worker.registration import WorkerRegistration

DAY = timedelta(days=1)


def maintenance(records: Records, registration: WorkerRegistration | None = None) -> Maintenance:
    """Return the loop of a worker at the real time, which is long after the clock of the records."""
    return Maintenance(
        records.database,
        registration or WorkerRegistration(records.database, 1, records.worker_id),
        DeadBroker(),
        FakeNotifier(),
        provider_limit=ProviderLimitSettings("provider_limit"),
        worker_timeout=DAY,
        retention=DAY,
        max_wait=NO_LOG_WAIT,
    )


def count(records: Records, *statuses: Status) -> int:
    query = select(func.count()).select_from(schema.jobs).where(schema.jobs.c.status.in_(statuses))
    with records.database.read() as tx:
        return tx.execute(query).scalar_one()


def test_a_worker_that_registered_again_has_no_lease_until_its_former_one_expires(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.maintenance.loop, "TICK", 0.0)  # every task is due again at once
    monkeypatch.setattr(worker.maintenance.loop, "LEASE", timedelta(seconds=0.5))
    registration = WorkerRegistration(records.database, 1, records.worker_id)
    loop = maintenance(records, registration)
    loop.run_once()
    with records.database.begin() as tx:
        registration.worker_id = register(tx, "a-host", 4711, 1, records.clock())
    records.submit_job()  # overdue for the clock of today
    loop.run_once()
    assert count(records, Status.QUEUED) == 1

    def done() -> bool:
        loop.run_once()
        return count(records, Status.QUEUED) == 0

    await_until(done, 5, "the lease was never taken")


def test_retention_deletes_in_steps(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruner, "BATCH", 3)
    for _ in range(7):
        records.job_in(Status.FAILED)
    loop = maintenance(records)
    left = []
    for _ in range(3):
        loop.run_once()
        left.append(count(records, *Status))
    assert left == [4, 1, 0]
    with records.database.read() as tx:
        messages = tx.execute(select(schema.attempts.c.error_message)).scalars().all()
        requests = tx.execute(select(func.count()).select_from(schema.requests)).scalar_one()
    assert messages == [None] * 7
    assert requests == 0


def test_deadlines_are_enforced_in_steps(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "BATCH", 3)
    monkeypatch.setattr(deadlines, "AT_ONCE", 3)
    for _ in range(7):
        records.submit_job()
    loop = maintenance(records)
    left = []
    for _ in range(3):
        loop.run_once()
        left.append(count(records, Status.QUEUED))
    assert left == [4, 1, 0]
