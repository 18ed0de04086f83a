"""The order of due jobs: round-robin across keys, by priority within a key, then oldest first."""

from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol

import pytest
from sqlalchemy import insert

from jobs.lifecycle import Status, Verb
from jobs.store import schema
from jobs.store.api_keys import ApiKey, create_key
from jobs.store.database import Database
from jobs.store.fair_scheduler import NEWEST, FairScheduler
from jobs.store.responses import get_job, oldest_due_at
from tests.support.clock import Clock
from tests.support.records import Records, make_key, make_spec, submit_one

SECOND = timedelta(seconds=1)
NEVER_ENQUEUED = timedelta(days=1)


def submit_many(records: Records, key: ApiKey, count: int, *, available_at: datetime | None = None) -> list[str]:
    with records.database.begin() as tx:
        spec = make_spec(key.id, run_at=available_at)
        return [submit_one(tx, spec, records.clock()).id for _ in range(count)]


class Pick(Protocol):
    """Picks due jobs."""

    def __call__(self, limit: int, *, enqueued_before: datetime | None = None) -> list[str]: ...


@pytest.fixture(params=["one scheduler", "another one each time"])
def pick(request: pytest.FixtureRequest, records: Records) -> Pick:
    """Return a function that picks. The order must not depend on what a scheduler remembers."""
    kept = FairScheduler()

    def pick_once(limit: int, *, enqueued_before: datetime | None = None) -> list[str]:
        scheduler = kept if request.param == "one scheduler" else FairScheduler()
        return pick_with(scheduler, records, limit, enqueued_before=enqueued_before)

    return pick_once


def pick_with(
    scheduler: FairScheduler, records: Records, limit: int, *, enqueued_before: datetime | None = None
) -> list[str]:
    with records.database.begin() as tx:
        return scheduler.pick(tx, records.clock(), limit, enqueued_before or records.clock() - NEVER_ENQUEUED)


class TestOrder:
    def test_the_oldest_of_a_key_goes_first(self, records: Records, clock: Clock, pick: Pick) -> None:
        first = records.submit_job()
        clock.advance(SECOND)
        second, third = records.submit_job(), records.submit_job()
        assert pick(10) == [first.id, second.id, third.id]

    def test_jobs_are_ordered_by_the_time_they_become_available(
        self, records: Records, clock: Clock, pick: Pick
    ) -> None:
        late = records.submit_job(run_at=clock() + SECOND)
        early = records.submit_job()
        clock.advance(SECOND)
        assert pick(10) == [early.id, late.id]

    def test_a_priority_orders_only_the_jobs_of_its_own_key(
        self, records: Records, database: Database, pick: Pick
    ) -> None:
        other = make_key(database)
        ordinary = [records.submit_job(priority=5) for _ in range(2)]
        lowest = records.submit_job(other, priority=0)
        urgent = [records.submit_job(other, priority=9) for _ in range(3)]
        picked = pick(10)
        assert set(picked[:2]) == {ordinary[0].id, urgent[0].id}
        assert set(picked[2:4]) == {ordinary[1].id, urgent[1].id}
        assert picked[4:] == [urgent[2].id, lowest.id]

    def test_a_key_with_endless_urgent_jobs_starves_no_other(
        self, records: Records, database: Database, clock: Clock, pick: Pick
    ) -> None:
        other = make_key(database)
        ordinary = [records.submit_job(priority=5) for _ in range(5)]
        left = {job.id for job in ordinary}
        for _ in range(len(ordinary)):
            for _ in range(4):
                records.submit_job(other, priority=9)
            clock.advance(SECOND)
            left -= set(pick(2))
        assert left == set()

    def test_the_limit_leaves_out_the_lowest_priority(self, records: Records, pick: Pick) -> None:
        low = [records.submit_job(priority=1) for _ in range(3)]
        high = [records.submit_job(priority=2) for _ in range(3)]
        assert pick(4) == [*(job.id for job in high), low[0].id]

    def test_a_limit_of_zero_picks_nothing(self, records: Records, pick: Pick) -> None:
        records.submit_job()
        assert pick(0) == pick(-3) == []


class TestDue:
    def test_only_queued_and_due_jobs(self, records: Records, clock: Clock, pick: Pick) -> None:
        for status in set(Status) - {Status.QUEUED}:
            records.job_in(status)
        records.submit_job(run_at=clock() + SECOND)
        due = records.submit_job()
        assert pick(10) == [due.id]

    def test_a_rescheduled_job_is_due_at_its_time(self, records: Records, clock: Clock, pick: Pick) -> None:
        running = records.job_in(Status.IN_PROGRESS)
        records.move(Verb.RESCHEDULE, running, available_at=clock() + 5 * SECOND)
        assert pick(10) == []
        clock.advance(5 * SECOND)
        assert pick(10) == [running.id]

    def test_a_job_is_enqueued_once_and_again_when_its_message_counts_as_lost(
        self, records: Records, clock: Clock, pick: Pick
    ) -> None:
        job = records.submit_job()
        assert pick(10) == [job.id]
        assert records.reload(job).enqueued_at == clock()
        enqueued_at = clock()
        clock.advance(SECOND)
        assert pick(10, enqueued_before=enqueued_at) == []
        assert pick(10, enqueued_before=enqueued_at + timedelta(microseconds=1)) == [job.id]

    def test_a_rescheduled_job_counts_as_not_enqueued(self, records: Records, clock: Clock, pick: Pick) -> None:
        job = records.submit_job()
        assert pick(10) == [job.id]
        records.move(Verb.RESCHEDULE, records.claim(job)[0], available_at=clock())
        assert pick(10) == [job.id]

    def test_jobs_not_picked_keep_their_order(self, records: Records, pick: Pick) -> None:
        submitted = submit_many(records, records.key, 10)
        assert pick(4) + pick(4) + pick(4) == submitted


class TestFairness:
    def test_five_small_keys_are_not_starved_by_a_large_one(
        self, records: Records, database: Database, pick: Pick
    ) -> None:
        large = submit_many(records, records.key, 500)
        small = [submit_many(records, make_key(database), 3) for _ in range(5)]
        assert set(pick(6)) == {large[0], *(jobs[0] for jobs in small)}
        assert set(pick(12)) == {*large[1:3], *(job for jobs in small for job in jobs[1:])}
        assert pick(100) == large[3:103]

    def test_one_pick_allocates_in_rounds(self, records: Records, database: Database, pick: Pick) -> None:
        owners = dict.fromkeys(submit_many(records, records.key, 50), 0)
        for number in (1, 2):
            owners |= dict.fromkeys(submit_many(records, make_key(database), 50), number)
        allocated = [owners[job] for job in pick(30)]
        for round_ in range(10):
            assert sorted(allocated[3 * round_ : 3 * round_ + 3]) == [0, 1, 2]

    def test_rounds_continue_over_picks_of_one(self, records: Records, database: Database, pick: Pick) -> None:
        owners = dict.fromkeys(submit_many(records, records.key, 20), 0)
        for number in (1, 2, 3):
            owners |= dict.fromkeys(submit_many(records, make_key(database), 20), number)
        allocated = []
        for _ in range(16):
            records.clock.advance(SECOND)
            [job] = pick(1)
            allocated.append(owners[job])
        for start in range(0, 16, 4):
            assert sorted(allocated[start : start + 4]) == [0, 1, 2, 3]

    def test_many_keys_share_a_small_window(self, records: Records, database: Database, pick: Pick) -> None:
        """There are more keys than one query reads, and fewer slots than keys. Each key is served once in a round."""
        keys = [make_key(database) for _ in range(120)]
        for key in keys:
            submit_many(records, key, 2)
        served: list[str] = []
        for _ in range(4):
            records.clock.advance(SECOND)
            served += pick(30)
        assert len(served) == 120
        with database.read() as tx:
            assert Counter(get_job(tx, job_id).api_key_id for job_id in served) == {key.id: 1 for key in keys}

    def test_a_thousand_keys_have_equal_shares_and_a_late_key_comes_next(
        self, records: Records, database: Database, pick: Pick
    ) -> None:
        with database.begin() as tx:
            keys = [create_key(tx, f"key {number}", None, records.clock())[0] for number in range(1_000)]
            owners = {
                submit_one(tx, make_spec(key.id), records.clock()).id: key.id for _round in range(3) for key in keys
            }
        served: Counter[str] = Counter()
        for share in (1, 2):
            for _ in range(5):
                records.clock.advance(SECOND)
                served.update(owners[job_id] for job_id in pick(200))
            assert served == dict.fromkeys(owners.values(), share)
        late = submit_many(records, make_key(database, "late"), 1)
        records.clock.advance(SECOND)
        assert pick(200)[0] == late[0]

    def test_slots_left_over_rotate_between_keys(self, records: Records, database: Database, pick: Pick) -> None:
        """Of three keys that share four slots one has two, each time another."""
        keys = [records.key, make_key(database), make_key(database)]
        owners = {job_id: key.id for key in keys for job_id in submit_many(records, key, 20)}
        served: Counter[str] = Counter()
        for _ in range(6):
            records.clock.advance(SECOND)
            served.update(owners[job_id] for job_id in pick(4))
        assert served == {key.id: 8 for key in keys}

    def test_keys_without_due_jobs_take_no_slots(self, records: Records, database: Database, pick: Pick) -> None:
        """One busy key among many without due jobs fills the whole window."""
        for _ in range(40):
            submit_many(records, make_key(database), 2, available_at=records.clock() + timedelta(hours=1))
        busy = submit_many(records, records.key, 100)
        assert pick(60) == busy[:60]

    def test_a_key_with_few_jobs_leaves_its_slots_to_others(
        self, records: Records, database: Database, pick: Pick
    ) -> None:
        small = submit_many(records, make_key(database), 1)
        large = submit_many(records, records.key, 30)
        for _ in range(5):
            submit_many(records, make_key(database), 1)
        picked = pick(30)
        assert len(picked) == 30
        assert set(picked[:7]) > {*small, large[0]}


class TestBacklog:
    """A scheduler with more due jobs than slots, which does not read all keys at each pick."""

    KEYS = 40

    def keys_with_jobs(self, records: Records, count: int) -> list[str]:
        """Create keys with `count` jobs each, and a hundred more for the first; return the keys' ids in order."""
        keys = [make_key(records.database) for _ in range(self.KEYS)]
        for key in keys:
            submit_many(records, key, count)
        submit_many(records, keys[0], NEWEST)
        return [key.id for key in keys]

    def last_key(self, records: Records) -> ApiKey:
        """Create a key whose id comes after all others."""
        with records.database.begin() as tx:
            values = {"id": "key_z", "name": "last", "sha256": "", "scopes": [], "created_at": records.clock()}
            tx.execute(insert(schema.api_keys).values(values))
        return ApiKey("key_z", "last", frozenset(), records.clock(), None, "")

    def owners(self, records: Records, job_ids: list[str]) -> list[str]:
        with records.database.read() as tx:
            return [get_job(tx, job_id).api_key_id for job_id in job_ids]

    def test_a_new_key_comes_next(self, records: Records) -> None:
        scheduler = FairScheduler()
        self.keys_with_jobs(records, 3)
        for _ in range(self.KEYS // 10):
            pick_with(scheduler, records, 10)
        late = make_key(records.database, "late")
        for priority in (5, 7):
            newest = records.submit_job(late, priority=priority)
            assert pick_with(scheduler, records, 10)[0] == newest.id

    def test_a_key_with_a_rescheduled_job_is_found_within_a_round(self, records: Records) -> None:
        scheduler = FairScheduler()
        last = records.submit_job(self.last_key(records))
        running, _attempt = records.claim(last)
        self.keys_with_jobs(records, 5)
        pick_with(scheduler, records, 10)
        records.move(Verb.RESCHEDULE, running, available_at=records.clock())
        picked = [job_id for _ in range(self.KEYS // 10 + 1) for job_id in pick_with(scheduler, records, 10)]
        assert last.id in picked

    def test_free_slots_are_filled_in_the_same_pick(self, records: Records) -> None:
        scheduler = FairScheduler()
        last = records.submit_job(self.last_key(records))
        self.keys_with_jobs(records, 1)
        assert len(pick_with(scheduler, records, 200)) == 1 + self.KEYS + NEWEST
        running, _attempt = records.claim(last)
        assert pick_with(scheduler, records, 10) == []
        records.move(Verb.RESCHEDULE, running, available_at=records.clock())
        assert pick_with(scheduler, records, 10) == [last.id]

    def test_keys_served_by_another_scheduler_have_to_wait(self, records: Records) -> None:
        keys = self.keys_with_jobs(records, 3)
        scheduler = FairScheduler()
        assert self.owners(records, pick_with(scheduler, records, 10)) == keys[:10]
        records.clock.advance(3 * SECOND)
        assert self.owners(records, pick_with(FairScheduler(), records, 20)) == keys[10:30]
        records.clock.advance(3 * SECOND)
        assert self.owners(records, pick_with(scheduler, records, 10)) == keys[30:]

    def test_a_pick_that_was_rolled_back_loses_nothing(self, records: Records) -> None:
        keys = self.keys_with_jobs(records, 2)
        scheduler = FairScheduler()
        with suppress(ConnectionError), records.database.begin() as tx:
            assert scheduler.pick(tx, records.clock(), 10, records.clock())
            raise ConnectionError
        picked = [job_id for _ in range(self.KEYS // 10) for job_id in pick_with(scheduler, records, 10)]
        assert set(self.owners(records, picked)) == set(keys)


class TestOldest:
    def test_nothing_is_queued(self, records: Records) -> None:
        records.job_in(Status.IN_PROGRESS)
        with records.database.read() as tx:
            assert oldest_due_at(tx) is None

    def test_the_longest_waiting_of_all_keys_and_priorities(self, records: Records, clock: Clock) -> None:
        for seconds, priority in ((50, 9), (20, 0), (30, 5)):
            records.submit_job(make_key(records.database), priority=priority, run_at=clock() + seconds * SECOND)
        with records.database.read() as tx:
            assert oldest_due_at(tx) == clock() + 20 * SECOND
