"""Refusals of an account or of a single job, told apart by the calls of other jobs."""

from datetime import timedelta

import pytest

from jobs.errors import ErrorKind, Failure
from jobs.job import Attempt, CallReport, Job
from jobs.lifecycle import Verb
from jobs.store.account_refusals import (
    ACCEPTED_AFTER,
    MOST_REFUSED,
    RECENT_OTHER_MODEL,
    is_account_refusal,
    is_job_refusal,
)
from jobs.store.responses import get_job
from tests.support.clock import Clock
from tests.support.records import ANSWER, Records, make_key, move_one

SECOND = timedelta(seconds=1)
REFUSED = CallReport(Failure(ErrorKind.BAD_CREDENTIALS, "Not you.", 403), http_status=403)


class World:
    """Calls of several keys, each of which begins a second after the previous one."""

    def __init__(self, records: Records, clock: Clock) -> None:
        self.records, self.clock = records, clock
        self.other = make_key(records.database, "another", clock())

    def begin(self, *, of_other: bool = False, **spec: str) -> Attempt:
        self.clock.advance(SECOND)
        key = self.other if of_other else None
        return self.records.claim(self.records.submit_job(key, **spec))[1]

    def refuse(self, attempt: Attempt) -> None:
        job = self._job(attempt)
        self.records.end(job, attempt, Verb.RESCHEDULE, REFUSED, available_at=self.clock())

    def give_up(self, attempt: Attempt) -> None:
        failed = self._job(self.again(attempt))
        with self.records.database.begin() as tx:
            move_one(tx, Verb.FAIL, failed, self.clock(), error_code="provider_rejected")

    def again(self, attempt: Attempt) -> Attempt:
        self.clock.advance(SECOND)
        return self.records.claim(self._job(attempt))[1]

    def answer(self, attempt: Attempt) -> None:
        self.records.end(self._job(attempt), attempt, Verb.COMPLETE, ANSWER)

    def _job(self, attempt: Attempt) -> Job:
        with self.records.database.read() as tx:
            return get_job(tx, attempt.job_id)

    def accounts(self, attempt: Attempt, *, is_unmistakable: bool = False) -> bool:
        with self.records.database.read() as tx:
            return is_account_refusal(tx, attempt, self.clock(), is_unmistakable=is_unmistakable)

    def own(self, attempt: Attempt) -> bool:
        with self.records.database.read() as tx:
            return is_job_refusal(tx, attempt, self.clock())


@pytest.fixture
def world(records: Records, clock: Clock) -> World:
    return World(records, clock)


def test_an_unmistakable_refusal_is_the_accounts_at_once(world: World) -> None:
    first = world.begin()
    assert world.accounts(first, is_unmistakable=True)
    assert not world.accounts(first)


def test_an_unmistakable_refusal_is_not_if_another_job_was_accepted_lately(world: World) -> None:
    world.answer(world.begin(of_other=True))
    assert not world.accounts(world.begin(), is_unmistakable=True)


def test_refusals_of_two_jobs_are_the_accounts(world: World) -> None:
    world.refuse(world.begin())
    assert world.accounts(world.begin())


def test_two_refusals_of_one_job_are_not_the_accounts(world: World) -> None:
    first = world.begin()
    world.refuse(first)
    assert not world.accounts(world.again(first))


def test_an_accepted_call_between_two_refusals_clears_the_account(world: World) -> None:
    world.refuse(world.begin())
    world.answer(world.begin())
    assert not world.accounts(world.begin())


def test_a_call_that_began_before_the_refusal_does_not_count(world: World) -> None:
    under_way = world.begin()
    world.refuse(world.begin())
    world.answer(under_way)
    assert world.accounts(world.begin())


def test_a_call_that_runs_for_a_while_was_accepted(world: World) -> None:
    world.refuse(world.begin())
    world.begin()
    assert world.accounts(world.begin())
    world.clock.advance(ACCEPTED_AFTER)
    assert not world.accounts(world.begin())


def test_two_jobs_of_one_key_are_not_the_accounts_while_other_keys_wait(world: World) -> None:
    world.refuse(world.begin())
    world.records.submit_job(world.other)
    assert not world.accounts(world.begin())
    world.refuse(world.begin(of_other=True))
    assert world.accounts(world.begin())


def test_a_forbidden_model_does_not_stop_other_models(world: World) -> None:
    world.answer(world.begin(model="some/other"))
    world.refuse(world.begin())
    assert not world.accounts(world.begin())
    assert not world.accounts(world.begin(), is_unmistakable=True)
    world.refuse(world.begin(model="some/other"))
    assert world.accounts(world.begin())


def test_an_old_call_for_another_model_does_not_count(world: World) -> None:
    world.answer(world.begin(model="some/other"))
    world.clock.advance(RECENT_OTHER_MODEL)
    world.refuse(world.begin())
    assert world.accounts(world.begin())


@pytest.mark.parametrize("of_other", [False, True], ids=["another job of the same key", "of another key"])
def test_a_job_that_alone_is_refused_fails_at_its_last_call(world: World, *, of_other: bool) -> None:
    attempt = world.begin()
    for number in range(1, MOST_REFUSED + 1):
        world.refuse(attempt)
        assert world.own(attempt) is (number == MOST_REFUSED)
        world.answer(world.begin(of_other=of_other))
        if number < MOST_REFUSED:
            attempt = world.again(attempt)


def test_a_job_that_is_refused_with_all_others_never_fails(world: World) -> None:
    world.answer(world.begin(of_other=True))
    attempt = world.begin()
    for _ in range(MOST_REFUSED + 2):
        world.refuse(attempt)
        world.refuse(world.begin(of_other=True))
        assert not world.own(attempt)
        attempt = world.again(attempt)


def test_a_job_without_others_never_fails(world: World) -> None:
    attempt = world.begin()
    for _ in range(MOST_REFUSED + 2):
        world.refuse(attempt)
        assert not world.own(attempt)
        attempt = world.again(attempt)


def test_refusals_before_another_job_was_accepted_do_not_count(world: World) -> None:
    attempt = world.begin()
    world.refuse(attempt)
    for _ in range(MOST_REFUSED + 1):  # while the account was refused
        world.refuse(world.begin(of_other=True))
        attempt = world.again(attempt)
        world.refuse(attempt)
    for number in range(1, MOST_REFUSED):
        world.answer(world.begin(of_other=True))
        attempt = world.again(attempt)
        world.refuse(attempt)
        assert world.own(attempt) is (number == MOST_REFUSED - 1)


def test_refusals_without_an_accepted_call_between_them_count_as_one(world: World) -> None:
    attempt = world.begin()
    world.refuse(attempt)
    world.answer(world.begin(of_other=True))
    for _ in range(MOST_REFUSED):
        attempt = world.again(attempt)
        world.refuse(attempt)
        assert not world.own(attempt)


def test_another_refused_job_of_the_key_does_not_save_a_refused_job(world: World) -> None:
    attempt = world.begin()
    for number in range(MOST_REFUSED):
        world.refuse(attempt)
        world.answer(world.begin(of_other=True))
        world.refuse(world.begin())
        if number < MOST_REFUSED - 1:
            attempt = world.again(attempt)
    assert world.own(attempt)


def test_refusals_of_a_failed_job_do_not_count_for_the_next(world: World) -> None:
    poison = world.begin()
    world.refuse(poison)
    world.answer(world.begin(of_other=True))
    for _ in range(MOST_REFUSED - 1):
        poison = world.again(poison)
        world.refuse(poison)
    assert world.accounts(world.begin())
    world.give_up(poison)
    assert not world.accounts(world.begin())
