"""Periodic tasks that wait for the network run in the maintenance loop and delay no other task."""

from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Event

import pytest

from jobs.backoff import Backoff
from jobs.errors import ErrorKind, Failure
from jobs.job import CallReport
from jobs.store.pending_work import PeriodicTask
from jobs.store.provider_limits import ProviderLimitSettings
from jobs.store.reconciliation import NO_LOG_WAIT, MaxLogWait
from tests.support.dead_broker import DeadBroker, FakeNotifier
from tests.support.records import Records
from tests.support.waiting import await_until
from worker.maintenance.loop import Maintenance
from worker.maintenance.task import NoAnswer, Task
from worker.outcome import EndedCall, Policy, record_outcome
from worker.registration import WorkerRegistration

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
WAIT = timedelta(minutes=5)
PROVIDER = "api.provider.test"
POLICY = Policy(
    Backoff(SECOND, SECOND), timedelta(hours=1), widen_on_overflow=False, max_wait=MaxLogWait(PROVIDER, WAIT)
)
CUT = CallReport(Failure(ErrorKind.INTERRUPTED, "The line went dead."))


def doubtful(records: Records) -> None:
    """Leave a call whose outcome is unknown, so that there is work for the reconciler."""
    job, attempt = records.claim(records.submit_job())
    with records.database.begin() as tx:
        record_outcome(tx, EndedCall(job, attempt, CUT, None, records.database.clock()), POLICY, 0)


class TestNetworkTask:
    """A periodic task that waits for the network, in the maintenance loop."""

    def loop(self, records: Records, run: Callable[[], int], worker_id: str | None = "wrk_1") -> Maintenance:
        class Reconciling:
            every = timedelta(0)

            def run_once(self, _now: datetime, stopping: Event) -> int:
                assert not stopping.is_set()
                return run()

        return Maintenance(
            records.database,
            WorkerRegistration(records.database, 10, worker_id),
            DeadBroker(),
            FakeNotifier(),
            provider_limit=ProviderLimitSettings("provider_limit"),
            worker_timeout=DAY,
            retention=DAY,
            max_wait=NO_LOG_WAIT,
            network_tasks={PeriodicTask.RECONCILIATION: Reconciling()},
        )

    def test_one_of_two_workers_runs_it(self, records: Records) -> None:
        doubtful(records)
        done: list[str] = []

        def noting(name: str) -> Maintenance:
            def run() -> int:
                done.append(name)
                return 1

            return self.loop(records, run, name)

        first, second = noting("wrk_1"), noting("wrk_2")

        def ran_twice() -> bool:
            first.run_once()
            second.run_once()
            return len(done) > 1

        await_until(ran_twice, 5, "it never ran again")
        assert set(done) == {"wrk_1"}

    @pytest.mark.parametrize("failure", [NoAnswer("HTTP 500"), ZeroDivisionError()])
    def test_a_failure_is_survived(self, records: Records, failure: Exception) -> None:
        doubtful(records)
        runs: list[int] = []

        def fail() -> int:
            runs.append(1)
            raise failure

        loop = self.loop(records, fail)

        def ran_twice() -> bool:
            loop.run_once()
            return len(runs) > 1

        await_until(ran_twice, 5, "it never ran again")

    def test_it_delays_no_other_task(self, records: Records) -> None:
        doubtful(records)
        answered, started = Event(), Event()

        def wait() -> int:
            started.set()
            return int(answered.wait(10))

        loop = self.loop(records, wait)
        loop.run_once()
        assert started.wait(5)
        loop.run_once()  # returns, and does not start it a second time
        answered.set()

    def test_without_work_or_without_a_worker_id_it_does_not_run(self, records: Records) -> None:
        def refuse() -> int:
            pytest.fail("it ran")

        self.loop(records, refuse).run_once()
        doubtful(records)
        self.loop(records, refuse, worker_id=None).run_once()

    def test_it_runs_ever_more_rarely_while_it_fails(self) -> None:
        task, now = Task("a task", 3, lambda _now: 0), 100.0
        pauses = []
        for has_failed in (True, True, False, True):
            task.end(now, has_failed=has_failed)
            pauses.append(task.due_at - now)
        assert pauses == [6, 12, 3, 6]
