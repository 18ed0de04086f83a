"""Background responses of jobs that ended without a worker are cancelled at the provider, and booked."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from jobs.errors import Billed, ErrorKind, Failure
from jobs.job import Attempt, CallReport, Cost, CostSource, Job, Outcome
from jobs.lifecycle import Status, Verb
from jobs.model_catalog import Catalogue
from jobs.settings import Transport
from jobs.store.attempts import attempts_of, close_lost, note_response
from jobs.store.jobs import erase, retry_job
from jobs.store.reconciliation import doubtful_attempts
from tests.provider.routes import Answer, Routes, routes
from tests.support.clock import Clock
from tests.support.records import ANSWER, MODEL, Records, end_one
from worker.maintenance.canceller import WINDOW, Canceller
from worker.maintenance.task import NoAnswer
from worker.provider.client import ProviderClient

THEIRS = "resp_theirs"
LOST = Failure(ErrorKind.LOST, "The worker fell silent.")
CANCELLED: dict[str, Any] = {"id": THEIRS, "object": "response", "status": "cancelled", "output": [], "usage": None}
MADE = {
    "id": THEIRS,
    "object": "response",
    "status": "completed",
    "output": [{"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "Too late."}]}],
    "usage": {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8},
    "meta": {"usage": {"usd_spent": 0.002}},
}


class World:
    def __init__(self, records: Records, provider: Routes) -> None:
        self.records = records
        self.provider = provider
        provider.answer = lambda *_: (200, CANCELLED)
        client = ProviderClient(f"{provider.url}/v1", SecretStr("a-key"), transport=Transport.BACKGROUND)
        self.canceller = Canceller(records.database, client.cancel, Catalogue([MODEL]))

    def orphan(self, response_id: str | None = THEIRS) -> Job:
        """Return a job that is queued again and whose last call has started a response that no worker holds."""
        job, attempt = self.records.claim(self.records.submit_job())
        return self.lose(job, attempt, response_id)

    def lose(self, job: Job, attempt: Attempt, response_id: str | None = THEIRS) -> Job:
        with self.records.database.begin() as tx:
            if response_id is not None:
                note_response(tx, attempt, response_id)
            close_lost(tx, job.id, attempt.number, self.records.clock(), LOST)
        return self.records.move(Verb.RESCUE, job, available_at=self.records.clock())

    def run(self) -> int:
        return self.canceller.run_once(self.records.clock())

    def attempts(self, job: Job) -> list[Attempt]:
        with self.records.database.read() as tx:
            return attempts_of(tx, job.id)

    @property
    def cancelled(self) -> list[str]:
        return [path for method, path, _query in self.provider.asked if method == "POST"]


@pytest.fixture
def world(records: Records) -> Iterator[World]:
    with routes() as provider:
        yield World(records, provider)


@pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.EXPIRE])
def test_a_job_that_ended_while_it_waited_to_be_resumed_is_cancelled_there(verb: Verb, world: World) -> None:
    job = world.records.move(verb, world.orphan())
    assert world.run() == 1
    assert world.cancelled == [f"/v1/responses/{THEIRS}/cancel"]
    [attempt] = world.attempts(job)
    assert (attempt.outcome, attempt.billed, attempt.cost) == (Outcome.CANCELLED, Billed.UNKNOWN, None)
    assert (world.run(), len(world.cancelled)) == (0, 1), "once is enough"


def test_the_response_of_an_erased_job_is_cancelled(world: World) -> None:
    job = world.records.move(Verb.CANCEL, world.orphan())
    with world.records.database.begin() as tx:
        erase(tx, job)
    assert world.run() == 1
    [attempt] = world.attempts(job)
    assert (attempt.outcome, attempt.error_message) == (Outcome.CANCELLED, None)


def test_a_response_released_at_a_shutdown_is_cancelled(world: World, clock: Clock) -> None:
    job, attempt = world.records.claim(world.records.submit_job())
    with world.records.database.begin() as tx:
        note_response(tx, attempt, THEIRS)
        stopped = CallReport(Failure(ErrorKind.INTERRUPTED, "Stopped."), provider_response_id=THEIRS)
        end_one(tx, attempt, Outcome.RELEASED, clock(), stopped)
    world.records.move(Verb.CANCEL, world.records.move(Verb.RELEASE, job))
    assert world.run() == 1
    assert world.attempts(job)[0].outcome is Outcome.CANCELLED


def test_an_answer_finished_before_is_booked_and_the_end_stands(world: World) -> None:
    job = world.records.move(Verb.CANCEL, world.orphan())
    world.provider.answer = lambda *_: (200, MADE)
    assert world.run() == 1
    [attempt] = world.attempts(job)
    cost = Cost(2_000, CostSource.PROVIDER)
    assert (attempt.outcome, attempt.billed, attempt.cost) == (Outcome.CANCELLED, Billed.YES, cost)
    assert attempt.usage is not None
    assert attempt.usage.total_tokens == 8
    ended = world.records.reload(job)
    assert (ended.status, ended.cost) == (Status.CANCELLED, cost)


def test_a_response_that_is_still_wanted_or_held_is_left_alone(world: World) -> None:
    world.orphan()
    taken, fetching = world.records.claim(world.orphan("resp_2"))
    resumed, fetched = world.records.claim(world.orphan("resp_3"))
    world.records.end(resumed, fetched, Verb.COMPLETE, ANSWER)
    world.records.move(Verb.CANCEL, taken)
    world.records.move(Verb.CANCEL, world.orphan(None))
    assert fetching.resumes == "resp_2"
    assert (world.run(), world.cancelled) == (0, [])


def test_a_response_that_was_resumed_and_lost_again_is_cancelled_once(world: World) -> None:
    taken, fetching = world.records.claim(world.orphan())
    job = world.records.move(Verb.CANCEL, world.lose(taken, fetching))
    assert world.run() == 1
    assert len(world.cancelled) == 1
    assert [each.outcome for each in world.attempts(job)] == [Outcome.LOST, Outcome.CANCELLED]


def test_a_job_that_is_retried_before_resumes_its_response(world: World, clock: Clock) -> None:
    job = world.records.move(Verb.CANCEL, world.orphan())
    with world.records.database.begin() as tx:
        retried = retry_job(tx, job, clock(), clock() + timedelta(hours=1))
    assert (world.run(), world.cancelled) == (0, [])
    assert world.records.claim(retried)[1].resumes == THEIRS


def test_a_job_that_is_retried_after_makes_a_new_call(world: World, clock: Clock) -> None:
    job = world.records.move(Verb.CANCEL, world.orphan())
    world.run()
    with world.records.database.begin() as tx:
        retried = retry_job(tx, job, clock(), clock() + timedelta(hours=1))
    assert world.records.claim(retried)[1].resumes is None


@pytest.mark.parametrize("status", [404, 405, 400])
def test_a_response_that_the_provider_lacks_is_not_asked_for_again(status: int, world: World, clock: Clock) -> None:
    job = world.records.move(Verb.CANCEL, world.orphan())
    world.provider.answer = lambda *_: (status, {"message": "Response not found."})
    assert world.run() == 1
    [attempt] = world.attempts(job)
    assert (attempt.outcome, attempt.billed) == (Outcome.CANCELLED, Billed.UNKNOWN)
    assert (world.run(), len(world.cancelled)) == (0, 1)
    with world.records.database.read() as tx:
        assert doubtful_attempts(tx, clock() - WINDOW, clock(), 10) == [attempt], "its log may still tell what it cost"


@pytest.mark.parametrize(
    "answer",
    [
        (500, {"message": "Internal server error"}),
        (429, {"message": "Too Many Requests"}),
        (401, {"message": "This request requires a valid API key"}),
        (200, b"<html>"),
        (200, {**CANCELLED, "status": "in_progress"}),
    ],
)
def test_a_cancellation_without_a_clear_reply_is_repeated(answer: Answer, world: World) -> None:
    job = world.records.move(Verb.CANCEL, world.orphan())
    other = world.records.move(Verb.CANCEL, world.orphan("resp_other"))
    world.provider.answer = lambda _method, path, _query: (200, CANCELLED) if "other" in path else answer
    with pytest.raises(NoAnswer):
        world.run()
    assert world.attempts(job)[0].outcome is Outcome.LOST
    assert world.attempts(other)[0].outcome is Outcome.CANCELLED, "one must not keep the others"
    world.provider.answer = lambda *_: (200, CANCELLED)
    assert world.run() == 1


def test_after_the_window_nothing_is_asked(world: World, clock: Clock) -> None:
    world.records.move(Verb.CANCEL, world.orphan())
    clock.advance(WINDOW)
    assert (world.run(), world.cancelled) == (0, [])


def test_two_at_once_book_once(world: World) -> None:
    job = world.records.move(Verb.CANCEL, world.orphan())

    def meanwhile(*_: Any) -> Answer:
        world.provider.answer = lambda *_: (200, MADE)
        assert world.run() == 1
        return 200, MADE

    world.provider.answer = meanwhile
    world.run()
    assert world.records.reload(job).cost == Cost(2_000, CostSource.PROVIDER)
