"""The provider's log as it may be: late, incomplete, paged, limited, broken, or not there at all."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from pydantic import SecretStr

from jobs.backoff import Backoff
from jobs.errors import Billed, ErrorKind, Failure
from jobs.job import Attempt, CallReport, Cost, CostSource, Job, OnUnknownOutcome, Usage
from jobs.lifecycle import Status
from jobs.store.attempts import attempts_of
from jobs.store.provider_limits import read_provider_limit
from jobs.store.reconciliation import MaxLogWait
from tests.provider.routes import Answer, Routes, routes
from tests.support.clock import Clock
from tests.support.dead_broker import DeadBroker, FakeNotifier
from tests.support.names import NAMES
from tests.support.records import Records
from worker.maintenance import deadlines
from worker.maintenance.provider_calls_log import MOST_PAGES, PAGE, ProviderLog, read_entry
from worker.maintenance.reconciler import OFF, Reconciler
from worker.maintenance.task import NoAnswer
from worker.outcome import EndedCall, Policy, record_outcome

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
AFTER = timedelta(seconds=90)
WAIT = timedelta(minutes=5)
PROVIDER = "api.provider.test"
POLICY = Policy(
    Backoff(SECOND, SECOND), timedelta(hours=1), widen_on_overflow=False, max_wait=MaxLogWait(PROVIDER, WAIT)
)
CUT = CallReport(Failure(ErrorKind.INTERRUPTED, "The line went dead."))


class World:
    """Jobs whose answers were lost, the log, and the reconciler."""

    def __init__(self, records: Records, clock: Clock, provider: Routes) -> None:
        self.records = records
        self.clock = clock
        self.provider = provider
        self.rows: list[dict[str, Any]] = []
        self.broker, self.channel = DeadBroker(), FakeNotifier()
        self.reconciler = self.another()
        provider.answer = self.page

    def another(self) -> Reconciler:
        log = ProviderLog(f"{self.provider.url}/v2/logs", SecretStr("a-key"))
        return Reconciler(self.records.database, self.broker, self.channel, log, provider_limit=PROVIDER, after=AFTER)

    def page(self, _method: str, path: str, query: dict[str, str]) -> Answer:
        assert path == "/v2/logs"
        start, size = int(query["offset"]), int(query["limit"])
        has_more = start + size < len(self.rows)
        return 200, {"data": self.rows[start : start + size], "pagination": {"has_more": has_more}}

    def lose(self, **changes: Any) -> tuple[Job, Attempt]:
        job, attempt = self.records.claim(self.records.submit_job(**changes))
        with self.records.database.begin() as tx:
            record_outcome(tx, EndedCall(job, attempt, CUT, None, self.clock()), POLICY, 0)
        return self.records.reload(job), attempt

    def park(self) -> Job:
        job, _attempt = self.lose(on_unknown_outcome=OnUnknownOutcome.FAIL)
        assert job.parked_until is not None
        return job

    def show(self, job: Job, status: str = "succeeded", **changes: Any) -> None:
        row = {"client_request_id": f"{job.id}:{job.attempt}", "status": status, "cost": {"usd": 0.0125}}
        self.rows.insert(0, {**row, "tokens": {"input": 10, "output": 20, "total": 30}, **changes})

    def ask(self) -> int:
        return self.reconciler.run_once(self.clock())

    def attempt(self, job: Job) -> Attempt:
        with self.records.database.read() as tx:
            return attempts_of(tx, job.id)[-1]


@pytest.fixture
def world(records: Records, clock: Clock) -> Iterator[World]:
    with routes() as provider:
        yield World(records, clock, provider)


class TestWhatItSays:
    def test_a_call_that_ran_is_booked_at_its_true_cost(self, world: World) -> None:
        job, _ = world.lose()
        world.clock.advance(AFTER)
        world.show(job)
        assert world.ask() == 1
        booked = world.attempt(job)
        assert (booked.billed, booked.cost) == (Billed.YES, Cost(12_500, CostSource.PROVIDER))
        assert booked.usage == Usage(10, 20, 30)
        assert world.records.reload(job).cost == booked.cost
        asked = len(world.provider.asked)
        assert (world.ask(), len(world.provider.asked)) == (0, asked), "nothing is left to ask about"
        assert world.provider.keys == {"Bearer a-key"}

    def test_a_call_that_failed_enqueues_the_parked_job(self, world: World) -> None:
        job = world.park()
        world.show(job, "failed", cost={"usd": 0})
        assert world.ask() == 1
        free = world.records.reload(job)
        assert (free.status, free.parked_until, free.available_at) == (Status.QUEUED, None, world.clock())
        assert world.broker.enqueued == [job.id]
        world.records.claim(free)

    def test_a_call_that_ran_ends_the_parked_job_and_notifies(self, world: World) -> None:
        job = world.park()
        world.show(job)
        world.ask()
        assert world.records.reload(job).error_code == "outcome_unknown"
        assert world.channel.said == [f"{NAMES.of_job(job.id)} ended"]
        assert world.broker.enqueued == []

    def test_a_row_that_comes_late_is_found_later(self, world: World, clock: Clock) -> None:
        job, other = world.park(), world.park()
        world.show(other)
        assert world.ask() == 1
        clock.advance(2 * AFTER)
        world.show(job, "failed")
        assert world.ask() == 1
        assert world.records.reload(job).parked_until is None

    def test_a_call_that_it_never_shows_fails_after_the_longest_wait(self, world: World, clock: Clock) -> None:
        job = world.park()
        for _ in range(3):
            clock.advance(WAIT / 3 - SECOND)
            assert world.ask() == 0
            assert deadlines.run_once(world.records.database, world.channel, clock()) == 0
        clock.advance(3 * SECOND)
        assert deadlines.run_once(world.records.database, world.channel, clock()) == 1
        ended = world.records.reload(job)
        assert (ended.status, ended.error_code, ended.failures) == (Status.FAILED, "outcome_unknown", 1)
        assert "may have been billed" in (ended.error_message or "")
        assert world.attempt(job).billed is Billed.UNKNOWN
        world.show(job)
        assert world.ask() == 1, "the money is still found out"
        assert world.records.reload(job).cost == Cost(12_500, CostSource.PROVIDER)

    def test_once_it_has_answered_it_is_asked_no_sooner_than_it_can_know(self, world: World, clock: Clock) -> None:
        world.show(world.lose()[0])
        world.ask()
        world.lose()
        asked = len(world.provider.asked)
        assert (world.ask(), len(world.provider.asked)) == (0, asked)
        clock.advance(AFTER)
        world.ask()
        assert len(world.provider.asked) == asked + 1

    def test_it_is_read_page_by_page_as_far_as_needed(self, world: World) -> None:
        job, _ = world.lose()
        world.clock.advance(AFTER)
        world.show(job)
        for number in range(PAGE):
            world.rows.insert(0, {"client_request_id": f"resp_other:{number}", "status": "succeeded"})
        world.rows += [{"client_request_id": None}] * (5 * PAGE)
        assert world.ask() == 1
        assert [query["offset"] for _, _, query in world.provider.asked] == ["0", str(PAGE)]

    def test_it_reads_a_bounded_number_of_pages(self, world: World) -> None:
        world.lose()
        world.clock.advance(AFTER)
        world.rows = [{}] * (PAGE * (MOST_PAGES + 5))
        assert world.ask() == 0
        assert len(world.provider.asked) == MOST_PAGES

    def test_it_stops_when_asked_to(self, world: World) -> None:
        world.lose()
        world.clock.advance(AFTER)
        world.show(world.lose()[0])
        world.rows += [{"client_request_id": "resp_other:1", "status": "failed"}] * (3 * PAGE)
        stopping = Event()
        stopping.set()
        world.reconciler.run_once(world.clock(), stopping)
        assert len(world.provider.asked) == 1

    def test_two_at_once_book_once(self, world: World) -> None:
        job = world.park()
        world.show(job)
        second = world.another()
        answered: list[Answer] = []

        def meanwhile(*asked: Any) -> Answer:
            """The second asks and books all while the first waits for this answer."""
            answered.append(world.page(*asked))
            if len(answered) == 1:
                assert second.run_once(world.clock()) == 1
            return answered[0]

        world.provider.answer = meanwhile
        assert world.ask() == 1
        assert world.records.reload(job).cost == Cost(12_500, CostSource.PROVIDER)
        assert world.channel.said == [f"{NAMES.of_job(job.id)} ended"]


class TestWhatItCannotSay:
    @pytest.mark.parametrize("status", [404, 405, 501, 401, 403])
    def test_without_a_log_no_job_waits(self, status: int, world: World, clock: Clock) -> None:
        job = world.park()
        world.provider.answer = lambda *_: (status, {"message": "No."})
        assert world.ask() == 0
        ended = world.records.reload(job)
        assert (ended.status, ended.error_code) == (Status.FAILED, "outcome_unknown")
        assert world.channel.said == [f"{NAMES.of_job(job.id)} ended"]
        at_once, _ = world.lose(on_unknown_outcome=OnUnknownOutcome.FAIL)
        assert (at_once.status, at_once.error_code) == (Status.FAILED, "outcome_unknown")
        clock.advance(OFF - SECOND)
        world.ask()
        assert len(world.provider.asked) == 1, "it is left alone for an hour"
        clock.advance(2 * SECOND)
        world.park()

    def test_a_job_parked_by_a_worker_that_did_not_know_is_ended_too(self, world: World) -> None:
        first, second = world.park(), world.park()
        world.provider.answer = lambda *_: (404, {})
        world.ask()
        assert world.records.reload(second).status is Status.FAILED
        late = world.records.job_in(Status.IN_PROGRESS, on_unknown_outcome=OnUnknownOutcome.FAIL)
        with world.records.database.begin() as tx:
            assert not read_provider_limit(tx, PROVIDER).has_log(world.clock())
            unaware = replace(POLICY, max_wait=MaxLogWait("another", WAIT))
            record_outcome(tx, EndedCall(late, attempts_of(tx, late.id)[0], CUT, None, world.clock()), unaware, 0)
        assert world.records.reload(late).parked_until is not None
        world.ask()
        assert world.records.reload(late).status is Status.FAILED
        assert world.records.reload(first).status is Status.FAILED

    @pytest.mark.parametrize(
        "answer",
        [
            (429, {"message": "Too Many Requests"}),
            (500, {"message": "Internal server error"}),
            (200, b"<html>Welcome</html>"),
            (200, []),
            (200, {"message": "Hello"}),
            (200, {"data": {"id": 1}}),
            (302, b""),
        ],
    )
    def test_an_answer_that_says_nothing_changes_nothing(self, answer: Answer, world: World) -> None:
        job = world.park()
        world.provider.answer = lambda *_: answer
        with pytest.raises(NoAnswer):
            world.ask()
        assert world.records.reload(job) == job
        world.provider.answer = world.page
        world.show(job, "failed")
        assert world.ask() == 1

    def test_the_urls_own_query_is_kept(self, world: World) -> None:
        log = ProviderLog(f"{world.provider.url}/v2/logs?api-version=1", None)
        assert list(log.entries(world.clock(), world.clock())) == []
        [(_, _, query)] = world.provider.asked
        assert (query["api-version"], query["offset"]) == ("1", "0")

    def test_a_log_that_is_away_changes_nothing(self, world: World) -> None:
        job = world.park()
        gone = ProviderLog("http://127.0.0.1:1/v2/logs", None)
        asking = Reconciler(
            world.records.database, world.broker, world.channel, gone, provider_limit=PROVIDER, after=AFTER
        )
        with pytest.raises(NoAnswer):
            asking.run_once(world.clock())
        assert world.records.reload(job) == job

    @pytest.mark.parametrize(
        "row",
        [
            {"status": "running"},
            {"status": None},
            {"cost": None},
            {"cost": {"usd": "free"}},
            {"cost": {"usd": -1}},
            {"cost": {"usd": True}},
            {"cost": {"usd": float("nan")}},
            {"cost": {"usd": 1e300}},
            {"client_request_id": 7},
            {"client_request_id": "resp_another:1"},
        ],
    )
    def test_a_row_that_makes_no_sense_is_skipped(self, row: dict[str, Any], world: World) -> None:
        job = world.park()
        world.show(job, **row)
        assert world.ask() == 0
        assert world.records.reload(job) == job

    def test_odd_tokens_do_not_spoil_a_good_price(self) -> None:
        odd: list[Any] = [None, [], {"input": -1, "output": "2", "total": 10**30}]
        for tokens in odd:
            entry = read_entry({"status": "succeeded", "cost": {"usd": "0.5"}, "tokens": tokens})
            assert entry is not None
            assert (entry.cost.microusd, entry.usage) == (500_000, Usage())

    def test_a_failure_that_cost_something_ran(self) -> None:
        entry = read_entry({"status": "failed", "cost": {"usd": 0.5}})
        assert entry is not None
        assert entry.ran
