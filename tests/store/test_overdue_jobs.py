"""The reason why a due job waits: all slots are taken, or a fault."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import update

from jobs.errors import ErrorKind
from jobs.store import provider_limits, schema
from jobs.store.installation import Installation
from jobs.store.overdue_jobs import OVERDUE, OverdueJob, overdue_job
from jobs.store.workers import CALLS, DELIVERIES, Report, heartbeat, leave, live_workers
from tests.support.clock import Clock
from tests.support.records import Records

SECOND = timedelta(seconds=1)
TIMEOUT = 10 * SECOND
PROVIDER = provider_limits.ProviderLimitSettings("provider")
BOTH = (CALLS, DELIVERIES)


def say(
    records: Records, queues: Sequence[str] = BOTH, slots: int = 10, took_ago: timedelta | None = None, **more: bool
) -> None:
    with records.database.begin() as tx:
        assert heartbeat(tx, records.worker_id, records.clock(), report=Report(queues, slots, took_ago), **more)


def waiting(records: Records, provider_limit: provider_limits.ProviderLimitSettings = PROVIDER) -> OverdueJob | None:
    with records.database.read() as tx:
        return overdue_job(tx, provider_limit, records.clock(), TIMEOUT)


def reason(records: Records, provider_limit: provider_limits.ProviderLimitSettings = PROVIDER) -> tuple[str, bool]:
    found = waiting(records, provider_limit)
    assert found is not None
    return found.reason, found.is_fault


def test_a_heartbeat_reports_queues_slots_and_the_last_message(records: Records, clock: Clock) -> None:
    say(records, [DELIVERIES], slots=3, took_ago=5 * SECOND)
    with records.database.read() as tx:
        (row,) = live_workers(tx, clock(), TIMEOUT)
    assert (row.queues, row.concurrency, row.took_at) == (DELIVERIES, 3, clock() - 5 * SECOND)
    assert row.takes(DELIVERIES)
    assert not row.takes(CALLS)
    say(records, BOTH, draining=True)
    with records.database.read() as tx:
        (row,) = live_workers(tx, clock(), TIMEOUT)
    assert (row.queues, row.took_at, row.takes(CALLS)) == ("calls,deliveries", None, False)


def test_only_the_job_that_has_been_due_longest_is_named(records: Records, clock: Clock) -> None:
    assert waiting(records) is None
    say(records)
    records.submit_job(run_at=clock() + timedelta(hours=1))
    oldest = records.submit_job()
    clock.advance(SECOND)
    records.submit_job()
    clock.advance(OVERDUE - 2 * SECOND)
    say(records)
    assert waiting(records) is None
    clock.advance(2 * SECOND)
    say(records)
    found = waiting(records)
    assert found is not None
    assert (found.job_id, found.due_at) == (oldest.id, oldest.available_at)
    records.claim(oldest)
    clock.advance(SECOND)
    assert waiting(records) != found


def test_each_reason_is_given(records: Records, clock: Clock) -> None:
    records.submit_job()
    clock.advance(OVERDUE + SECOND)
    assert reason(records) == ("no live worker", True)
    say(records, took_ago=40 * SECOND)
    assert reason(records) == ("slots are free, but the workers have taken no job for 40 s", True)
    say(records)
    assert reason(records) == ("slots are free, but the workers have taken no job since they were started", True)
    say(records, took_ago=SECOND)
    assert reason(records) == ("slots come free and are taken by others", False)
    say(records, [DELIVERIES])
    assert reason(records) == ("no live worker listens to the queue of jobs: a-host (process 4711)", True)
    with records.database.read() as tx:
        away = overdue_job(tx, PROVIDER, clock(), TIMEOUT, broker_answers=False)
    assert away is not None
    assert (away.reason, away.is_fault) == ("the broker does not answer", True)
    say(records, slots=1)
    running, _ = records.claim(records.submit_job())
    assert reason(records) == ("all 1 slots of the workers are taken", False)
    say(records, slots=5)
    throttle = provider_limits.ProviderLimitSettings("provider", most=1)
    assert reason(records, throttle) == ("all 1 slots that the provider allows are taken", False)
    with records.database.begin() as tx:
        provider_limits.pause(tx, PROVIDER.name, ErrorKind.BAD_CREDENTIALS, clock(), clock())
    assert reason(records) == ("provider refuses this server's key since 15:09 UTC, next try now", True)
    say(records, draining=True)
    assert reason(records) == ("all workers are shutting down", True)
    with records.database.begin() as tx:
        leave(tx, records.worker_id, clock())
    assert reason(records) == ("no live worker", True)
    assert running.worker_id == records.worker_id


def test_a_worker_of_an_older_release_counts_and_is_not_a_fault(records: Records, clock: Clock) -> None:
    records.submit_job()
    clock.advance(OVERDUE + SECOND)
    with records.database.begin() as tx:
        assert heartbeat(tx, records.worker_id, clock())
        (row,) = live_workers(tx, clock(), TIMEOUT)
    assert (row.queues, row.takes(CALLS)) == (None, True)
    said, is_fault = reason(records)
    assert "older release" in said
    assert not is_fault


def test_the_installations_namespace_is_generated_once_or_chosen(records: Records) -> None:
    made = Installation(records.database, None).names()
    assert made.namespace.startswith("backburner-")
    assert Installation(records.database, None).names() == made
    assert Installation(records.database, "mine").names().calls == "mine"
    with records.database.begin() as tx:
        tx.execute(update(schema.installation).values(namespace="moved"))
    assert Installation(records.database, None).names().deliveries == "moved.deliveries"


@pytest.mark.parametrize("changed", ["calls", "deliveries", "control", "events", "ended", "wrote", "stop", "revoked"])
@pytest.mark.one_database
def test_two_installations_share_no_name(records: Records, changed: str) -> None:
    mine, others = Installation(records.database, None).names(), Installation(records.database, "other").names()
    assert getattr(mine, changed) != getattr(others, changed)
