"""Copies that the provider keeps for its background mode are deleted once they must not be stored."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydantic import SecretStr

from jobs.errors import ErrorKind, Failure
from jobs.job import Attempt, Job
from jobs.lifecycle import Verb
from jobs.settings import Transport
from jobs.store.attempts import close_lost, note_response
from jobs.store.jobs import erase
from tests.provider.routes import Answer, Routes, routes
from tests.support.clock import Clock
from tests.support.records import ANSWER, Records
from worker.maintenance.canceller import WINDOW as CANCELLED_WITHIN
from worker.maintenance.eraser import WINDOW, Eraser
from worker.maintenance.task import NoAnswer
from worker.provider.client import ProviderClient

THEIRS = "resp_theirs"
DELETED = {"id": THEIRS, "object": "response", "deleted": True}


class World:
    def __init__(self, records: Records, provider: Routes) -> None:
        self.records = records
        self.provider = provider
        provider.answer = lambda *_: (200, DELETED)
        client = ProviderClient(f"{provider.url}/v1", SecretStr("a-key"), transport=Transport.BACKGROUND)
        self.eraser = Eraser(records.database, client.delete)

    def started(self, response_id: str = THEIRS, *, store: bool = False) -> tuple[Job, Attempt]:
        job, attempt = self.records.claim(self.records.submit_job(store=store))
        with self.records.database.begin() as tx:
            note_response(tx, attempt, response_id)
        return job, attempt

    def fetched(self, response_id: str = THEIRS, *, store: bool = False) -> Job:
        job, attempt = self.started(response_id, store=store)
        return self.records.end(job, attempt, Verb.COMPLETE, replace(ANSWER, provider_response_id=response_id))

    def erase(self, job: Job) -> None:
        with self.records.database.begin() as tx:
            erase(tx, job)

    def run(self) -> int:
        return self.eraser.run_once(self.records.clock())

    @property
    def deleted(self) -> list[str]:
        return [path for method, path, _query in self.provider.asked if method == "DELETE"]


@pytest.fixture
def world(records: Records) -> Iterator[World]:
    with routes() as provider:
        yield World(records, provider)


def test_an_unstored_response_is_deleted_once_it_was_fetched(world: World) -> None:
    job, attempt = world.started()
    assert (world.run(), world.deleted) == (0, []), "it has yet to be fetched"
    world.records.end(job, attempt, Verb.COMPLETE, ANSWER)
    assert (world.run(), world.deleted) == (1, [f"/v1/responses/{THEIRS}"])
    assert (world.run(), len(world.deleted)) == (0, 1), "once is enough"


def test_a_stored_response_stays_until_it_is_erased_here(world: World) -> None:
    job = world.fetched(store=True)
    assert (world.run(), world.deleted) == (0, [])
    world.erase(job)
    assert (world.run(), world.deleted) == (1, [f"/v1/responses/{THEIRS}"])


def test_a_response_erased_here_before_the_provider_gave_its_id_is_deleted_there(world: World) -> None:
    job, attempt = world.records.claim(world.records.submit_job())
    world.erase(world.records.move(Verb.CANCEL, job))
    with world.records.database.begin() as tx:
        note_response(tx, attempt, THEIRS)
        close_lost(tx, job.id, attempt.number, world.records.clock(), Failure(ErrorKind.LOST, "It fell silent."))
    assert world.run() == 0, "it may still run there, and is to be cancelled before"
    world.records.clock.advance(CANCELLED_WITHIN)
    assert (world.run(), world.deleted) == (1, [f"/v1/responses/{THEIRS}"])


def test_a_response_that_a_job_may_resume_is_left_alone(world: World) -> None:
    job, attempt = world.started()
    with world.records.database.begin() as tx:
        close_lost(tx, job.id, attempt.number, world.records.clock(), Failure(ErrorKind.LOST, "It fell silent."))
    queued = world.records.move(Verb.RESCUE, job, available_at=world.records.clock())
    assert (world.run(), world.deleted) == (0, [])
    resumed, fetching = world.records.claim(queued)
    assert fetching.resumes == THEIRS
    world.records.end(resumed, fetching, Verb.COMPLETE, ANSWER)
    assert (world.run(), world.deleted) == (1, [f"/v1/responses/{THEIRS}"])


@pytest.mark.parametrize(
    "answer",
    [
        (500, {"message": "Internal server error"}),
        (429, {"message": "Too Many Requests"}),
        (401, {"message": "This request requires a valid API key"}),
        (403, {"message": "Forbidden"}),
        (200, b"<html>"),
    ],
)
def test_an_outage_forgets_no_copy(answer: Answer, world: World) -> None:
    world.fetched()
    world.fetched("resp_other")
    world.provider.answer = lambda _method, path, _query: (200, DELETED) if "other" in path else answer
    with pytest.raises(NoAnswer):
        world.run()
    world.provider.answer = lambda *_: (200, DELETED)
    assert (world.run(), world.deleted[-1]) == (1, f"/v1/responses/{THEIRS}")


@pytest.mark.parametrize(("status", "deleted"), [(404, 1), (410, 1), (405, 0), (501, 0)])
def test_a_copy_that_is_gone_or_undeletable_is_not_asked_for_again(status: int, deleted: int, world: World) -> None:
    world.fetched()
    world.provider.answer = lambda *_: (status, {"message": "Cannot DELETE"})
    assert world.run() == deleted
    assert (world.run(), len(world.deleted)) == (0, 1)


def test_after_the_window_nothing_is_asked(world: World, clock: Clock) -> None:
    world.fetched()
    clock.advance(WINDOW)
    assert (world.run(), world.deleted) == (0, [])
