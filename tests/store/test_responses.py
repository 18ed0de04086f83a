"""Reads: a key sees only its own jobs, pages stay complete while rows arrive, and filters match exactly."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from jobs.errors import JobNotFound
from jobs.ids import new_id
from jobs.job import Job
from jobs.lifecycle import Status, Verb
from jobs.store import metrics
from jobs.store.api_keys import ApiKey
from jobs.store.database import Database
from jobs.store.jobs import erase
from jobs.store.responses import (
    POSITION_LIMIT,
    Filters,
    count_open,
    ended_among,
    get_documents,
    get_job,
    get_request,
    get_response_document,
    list_sizes,
    queue_position,
)
from jobs.store.workers import live_slots, live_workers
from tests.support.clock import Clock
from tests.support.records import ANSWER, Records, make_key, make_spec, submit_one
from tests.support.waiting import await_until

SECOND = timedelta(seconds=1)


def listed(records: Records, filters: Filters | None = None, *, key: ApiKey | None = None, **page: Any) -> list[str]:
    with records.database.read() as tx:
        found, _more = list_sizes(tx, (key or records.key).id, filters or Filters(), **{"limit": 100, **page})
    return [job_id for job_id, _size in found]


def position(records: Records, job: Job) -> int | None:
    with records.database.read() as tx:
        return queue_position(tx, records.reload(job))


class TestScope:
    """A key cannot see that another key's job exists."""

    @pytest.mark.parametrize("read", [get_job, get_response_document])
    def test_one(self, read: Callable[..., object], records: Records, database: Database) -> None:
        job = records.job_in(Status.COMPLETED)
        with database.read() as tx:
            assert read(tx, job.id, records.key.id)
            for job_id, key_id in (
                (job.id, make_key(database).id),
                (job.id, ""),
                (new_id("resp"), records.key.id),
                ("", records.key.id),
                (f"{job.id} ", records.key.id),
                (job.id.upper(), records.key.id),
            ):
                with pytest.raises(JobNotFound) as missing:
                    read(tx, job_id, key_id)
                assert missing.value.param == "response_id"

    def test_the_program_itself_reads_without_a_key(self, records: Records) -> None:
        job = records.submit_job()
        assert records.reload(job) == job

    def test_a_page(self, records: Records, database: Database) -> None:
        other = make_key(database)
        mine, theirs = records.submit_job(metadata={"a": "b"}), records.submit_job(other, metadata={"a": "b"})
        for filters in (
            Filters(),
            Filters(metadata={"a": "b"}),
            Filters(status=Status.QUEUED),
            Filters(model=mine.model),
        ):
            assert listed(records, filters) == [mine.id]
            assert listed(records, filters, key=other) == [theirs.id]

    def test_the_queue_position_counts_the_keys_own_jobs_only(self, records: Records, database: Database) -> None:
        for _ in range(3):
            records.submit_job(make_key(database), priority=9)
        assert position(records, records.submit_job()) == 1

    def test_an_erased_request_is_gone(self, records: Records, database: Database) -> None:
        job = records.job_in(Status.COMPLETED)
        with database.begin() as tx:
            assert get_request(tx, job.id) == ({"model": job.model}, "What is the answer?")
            erase(tx, job)
            with pytest.raises(JobNotFound):
                get_request(tx, job.id)


class TestResponseDocument:
    def test_it_has_all_parts(self, records: Records, database: Database) -> None:
        labels = {"ticket": "4711"}
        job = records.job_in(Status.COMPLETED, settings={"model": "m", "metadata": labels}, metadata=labels)
        with database.read() as tx:
            document = get_response_document(tx, job.id, records.key.id)
        assert document.job == job
        assert document.settings == {"model": "m", "metadata": labels}
        assert document.metadata == labels
        assert document.answer == vars(ANSWER.result)["response"]

    def test_responses_of_two_keys_are_read_together_but_not_across(self, records: Records, database: Database) -> None:
        mine, theirs = records.key.id, make_key(database)
        my_job, their_job = records.job_in(Status.COMPLETED), records.submit_job(theirs)
        asked = [(my_job.id, mine), (their_job.id, mine), (my_job.id, theirs.id), (their_job.id, theirs.id)]
        with database.read() as tx:
            found = get_documents(tx, asked)
            assert get_documents(tx, []) == []
        assert [document and document.job for document in found] == [my_job, None, None, their_job]

    def test_without_an_answer_there_is_none(self, records: Records, database: Database) -> None:
        job = records.submit_job()
        with database.read() as tx:
            document = get_response_document(tx, job.id, records.key.id)
        assert (document.answer, document.metadata) == (None, {})


class TestPages:
    @pytest.mark.parametrize("ascending", [False, True])
    @pytest.mark.parametrize("filters", [Filters(), Filters(metadata={"batch": "1"}), Filters(status=Status.QUEUED)])
    def test_all_are_seen_once_while_rows_arrive(self, filters: Filters, ascending: bool, records: Records) -> None:
        def arrive() -> str:
            return records.submit_job(metadata={"batch": "1"}).id

        there = [arrive() for _ in range(25)]
        arrived: list[str] = []
        seen: list[str] = []
        after = None
        for _ in range(20):
            with records.database.read() as tx:
                page, more = list_sizes(tx, records.key.id, filters, limit=7, after=after, ascending=ascending)
            seen += [job_id for job_id, _size in page]
            if not more:
                break
            after = seen[-1]
            if len(arrived) < 6:
                arrived += [arrive(), arrive()]
        assert seen == (there + arrived if ascending else there[::-1])

    def test_the_last_page_has_no_more_even_if_it_is_full(self, records: Records) -> None:
        for _ in range(4):
            records.submit_job()
        with records.database.read() as tx:
            first, more = list_sizes(tx, records.key.id, Filters(), limit=2)
            last, no_more = list_sizes(tx, records.key.id, Filters(), limit=2, after=first[-1][0])
            empty, nothing = list_sizes(tx, records.key.id, Filters(), limit=2, after=last[-1][0])
        assert (len(first), more, len(last), no_more, len(empty), nothing) == (2, True, 2, False, 0, False)

    def test_a_page_may_begin_after_an_erased_id(self, records: Records, database: Database) -> None:
        jobs = [records.job_in(Status.COMPLETED) for _ in range(3)]
        with database.begin() as tx:
            erase(tx, jobs[1])
        assert listed(records, after=jobs[1].id) == [jobs[0].id]


class TestFilters:
    @pytest.mark.parametrize("status", list(Status))
    def test_by_status(self, status: Status, records: Records) -> None:
        ids = {each: records.job_in(each).id for each in Status}
        assert listed(records, Filters(status=status)) == [ids[status]]

    def test_by_model(self, records: Records) -> None:
        wanted, _other = records.submit_job(model="a/b"), records.submit_job(model="a/B")
        assert listed(records, Filters(model="a/b")) == [wanted.id]
        assert listed(records, Filters(model="a")) == []

    def test_by_metadata_all_labels_have_to_match(self, records: Records) -> None:
        both = records.submit_job(metadata={"a": "1", "b": "2"})
        one = records.submit_job(metadata={"a": "1", "b": "3"})
        records.submit_job(metadata={"a": "2", "b": "1"})
        assert listed(records, Filters(metadata={"a": "1"})) == [one.id, both.id]
        assert listed(records, Filters(metadata={"a": "1", "b": "2"})) == [both.id]
        assert listed(records, Filters(metadata={"a": "1", "c": "2"})) == []

    def test_together(self, records: Records) -> None:
        wanted = records.job_in(Status.FAILED, model="a/b", metadata={"a": "1"})
        records.job_in(Status.COMPLETED, model="a/b", metadata={"a": "1"})
        records.job_in(Status.FAILED, metadata={"a": "1"})
        records.job_in(Status.FAILED, model="a/b")
        assert listed(records, Filters(status=Status.FAILED, model="a/b", metadata={"a": "1"})) == [wanted.id]

    @pytest.mark.parametrize("metadata", [{}, {"a": "1"}])
    def test_by_creation_to_the_millisecond(self, metadata: dict[str, str], records: Records) -> None:
        """The lower bound is included, the upper one is not."""
        jobs = [records.submit_job(metadata={"a": "1"}).id]

        def made_at(job_id: str) -> datetime:
            return datetime.fromtimestamp(int(job_id.removeprefix("resp_")[:12], 16) / 1000, UTC)

        def spread_over_three_milliseconds() -> bool:
            jobs.append(records.submit_job(metadata={"a": "1"}).id)
            return len({made_at(job) for job in jobs}) >= 3

        await_until(spread_over_three_milliseconds, 10, "the clock stands still")
        _first, second, third = sorted({made_at(job) for job in jobs})[:3]
        between = Filters(created_after=second, created_before=third, metadata=metadata)
        assert listed(records, between) == [job for job in reversed(jobs) if made_at(job) == second]
        since = Filters(created_after=second, metadata=metadata)
        assert listed(records, since) == [job for job in reversed(jobs) if made_at(job) >= second]
        until = Filters(created_before=second, metadata=metadata)
        assert listed(records, until) == [job for job in reversed(jobs) if made_at(job) < second]

    def test_a_range_outside_all_time_is_no_error(self, records: Records) -> None:
        job = records.submit_job()
        epoch, far = datetime.fromtimestamp(0, UTC), datetime(9999, 12, 31, tzinfo=UTC)
        assert listed(records, Filters(created_after=epoch, created_before=far)) == [job.id]
        assert listed(records, Filters(created_after=far)) == listed(records, Filters(created_before=epoch)) == []


class TestQueuePosition:
    def test_by_priority_then_age(self, records: Records, clock: Clock) -> None:
        early, twin = records.submit_job(), records.submit_job()
        clock.advance(SECOND)
        late, low, high = records.submit_job(), records.submit_job(priority=4), records.submit_job(priority=9)
        places = {job.id: position(records, job) for job in (high, early, twin, late, low)}
        assert list(places.values()) == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("status", sorted(set(Status) - {Status.QUEUED}))
    def test_only_queued_jobs_have_one(self, status: Status, records: Records) -> None:
        assert position(records, records.job_in(status)) is None

    def test_jobs_that_left_the_queue_do_not_count(self, records: Records) -> None:
        first, second = records.submit_job(), records.submit_job()
        assert position(records, second) == 2
        records.claim(first)
        assert position(records, second) == 1

    def test_a_long_queue_is_counted_up_to_a_limit(self, records: Records, database: Database) -> None:
        with database.begin() as tx:
            for priority in (5, 9):
                for _ in range(POSITION_LIMIT // 2 + 5):
                    submit_one(tx, make_spec(records.key.id, priority=priority), records.clock())
        assert position(records, records.submit_job()) == POSITION_LIMIT


def test_open_jobs_are_counted_over_all_keys(records: Records, database: Database) -> None:
    with database.read() as tx:
        assert count_open(tx) == {Status.QUEUED: 0, Status.IN_PROGRESS: 0}
    for status in Status:
        records.job_in(status)
    records.submit_job(make_key(database))
    with database.read() as tx:
        assert count_open(tx) == {Status.QUEUED: 2, Status.IN_PROGRESS: 1}


def test_many_queued_jobs_are_not_counted_one_by_one(
    records: Records, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger count is PostgreSQL's estimate from its last ANALYZE."""
    monkeypatch.setattr(metrics, "COUNTED", 5)
    for _ in range(12):
        records.submit_job()
    with database.read() as tx:
        assert count_open(tx)[Status.QUEUED] == (12 if database.is_sqlite else 5)
        tx.execute(text("ANALYZE"))
        assert count_open(tx)[Status.QUEUED] == 12


def test_ended_among_returns_ended_and_erased_jobs(records: Records, database: Database) -> None:
    jobs = {status: records.job_in(status).id for status in Status}
    gone = new_id("resp")
    still_open = {jobs[Status.QUEUED], jobs[Status.IN_PROGRESS]}
    assert ended_among(database, [*jobs.values(), gone]) == {*jobs.values(), gone} - still_open
    assert ended_among(database, []) == set()
    many = [new_id("resp") for _ in range(1_200)]
    assert ended_among(database, [*many, *still_open]) == set(many)


def test_reads_see_what_was_committed_meanwhile(records: Records, database: Database) -> None:
    """A read transaction is no snapshot: each statement sees what was committed before it."""
    job = records.job_in(Status.IN_PROGRESS)
    with database.read() as tx:
        assert get_job(tx, job.id).status is Status.IN_PROGRESS
        records.move(Verb.COMPLETE, job)
        assert get_job(tx, job.id).status is Status.COMPLETED
        assert live_workers(tx, records.clock(), SECOND)
        assert live_slots(tx, records.clock(), SECOND) == 10
