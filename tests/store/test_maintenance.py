"""The maintenance loop with more to do than one go may take: it goes in steps, one right after the other."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from jobs.lifecycle import Status
from jobs.store import tables
from jobs.store.lanes import LaneSettings
from jobs.store.reconciliation import AT_ONCE
from tests.support.deaf import DeafBroker, DeafChannel
from tests.support.records import Records
from worker.identity import Identity
from worker.maintenance import deadlines, pruner
from worker.maintenance.loop import Maintenance

DAY = timedelta(days=1)


def maintenance(records: Records) -> Maintenance:
    """Of a worker of today, for whom the clock of the records stands far back."""
    return Maintenance(
        records.database,
        Identity(records.database, 1, records.worker_id),
        DeafBroker(),
        DeafChannel(),
        lane=LaneSettings("lane"),
        worker_timeout=DAY,
        retention=DAY,
        patience=AT_ONCE,
    )


def count(records: Records, *statuses: Status) -> int:
    query = select(func.count()).select_from(tables.jobs).where(tables.jobs.c.status.in_(statuses))
    with records.database.read() as tx:
        return tx.execute(query).scalar_one()


def test_retention_goes_in_steps(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
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
        messages = tx.execute(select(tables.attempts.c.error_message)).scalars().all()
        requests = tx.execute(select(func.count()).select_from(tables.requests)).scalar_one()
    assert messages == [None] * 7
    assert requests == 0


def test_so_do_deadlines(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
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
