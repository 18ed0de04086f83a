"""The outbox on every database: written with the end of a job, claimed once, taken back, and erased in time."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from jobs.ids import first_id_at
from jobs.job import Job, WebhookTarget
from jobs.lifecycle import TERMINAL, TRANSITIONS, Status, Verb
from jobs.store import schema, workers
from jobs.store.api_keys import ApiKey
from jobs.store.jobs import erase
from jobs.store.responses import get_job
from jobs.store.webhooks import endpoints as store
from jobs.store.webhooks.claims import ClaimedDelivery, claim_deliveries
from jobs.store.webhooks.endpoints import EncryptedSecret, Endpoint
from jobs.store.webhooks.outbox import pending_of_jobs
from jobs.store.webhooks.pruning import prune_events
from jobs.store.webhooks.results import CLAIM_TIMEOUT, record_delivery_attempt, rescue_deliveries
from jobs.store.webhooks.scheduler import MOST_PER_TARGET, pick_due_deliveries
from jobs.webhooks.protocol import (
    MAX_FAILURES,
    MOST_LOST_IN_A_ROW,
    DeliveryError,
    DeliveryReport,
    DeliveryStatus,
    DisabledFor,
    EventType,
)
from tests.support.clock import Clock
from tests.support.racing import race
from tests.support.records import ANSWER, Records, make_key, move_one
from worker.outcome import EndedCall, record_outcomes

SECOND = timedelta(seconds=1)
ENDS = sorted(verb for verb, each in TRANSITIONS.items() if each.target.is_terminal)
AttemptEnd = tuple[DeliveryError | None, int | None]
"""What a try came to, and the receiver's status."""
TARGET = WebhookTarget("https://example.com/", "target", ("response.completed",), None)


def endpoint(records: Records, target: str = "a receiver", key: ApiKey | None = None) -> Endpoint:
    with records.database.begin() as tx:
        return store.create_endpoint(
            tx,
            (key or records.key).id,
            name="hook",
            url="https://example.com/",
            target=target,
            event_types=list(EventType),
            secret=EncryptedSecret("encrypted", "hint"),
            now=records.clock(),
        )


def events(records: Records) -> list[tuple[str, str]]:
    row = schema.webhook_events.c
    with records.database.read() as tx:
        return [(each.job_id, each.type) for each in tx.execute(select(row.job_id, row.type).order_by(row.id))]


def delivery_ids(records: Records, job: Job) -> list[str]:
    with records.database.read() as tx:
        return pending_of_jobs(tx, [job.id])


def test_whoever_settles_calls_is_told_what_to_ring_for(records: Records) -> None:
    endpoint(records)
    disabled = endpoint(records)
    endpoint(records, key=make_key(records.database, "other"))
    with records.database.begin() as tx:
        this = schema.webhook_endpoints.c.id == disabled.id
        gone = {"disabled_at": records.clock(), "disabled_for": DisabledFor.GONE}
        tx.execute(update(schema.webhook_endpoints).where(this).values(gone))
    submitted = (records.submit_job(), records.submit_job(webhook=TARGET), records.submit_job(background=False))
    calls = [EndedCall(*records.claim(job), ANSWER, None, records.clock()) for job in submitted]
    with records.database.begin() as tx:
        settled, deliveries = record_outcomes(tx, calls)
    assert len(settled) == 3
    assert len(deliveries) == 3  # the key's endpoint hears of two of them, and one names a receiver of its own
    assert sorted(deliveries) == sorted(each for job in submitted for each in delivery_ids(records, job))


def status_of(records: Records, delivery_id: str) -> str:
    with records.database.read() as tx:
        row = schema.webhook_deliveries.c
        return str(tx.execute(select(row.status).where(row.id == delivery_id)).scalar_one())


def claim(records: Records, delivery_id: str, worker_id: str) -> ClaimedDelivery:
    with records.database.begin() as tx:
        return claim_deliveries(tx, [delivery_id], worker_id, records.clock())[delivery_id]


def report(records: Records, sending: ClaimedDelivery, came_to: DeliveryReport) -> DeliveryStatus | None:
    with records.database.begin() as tx:
        return record_delivery_attempt(tx, sending, came_to, records.clock(), 0).status


def log_of(records: Records, hook: Endpoint) -> list[tuple[DeliveryStatus, list[AttemptEnd]]]:
    with records.database.read() as tx:
        found = store.list_deliveries(tx, hook, limit=100)[0]
    return [(each.status, [(made.error_kind, made.http_status) for made in each.attempts]) for each in found]


def due(
    records: Records, limit: int = 100, enqueued_before: datetime | None = None, places: int | None = None
) -> list[str]:
    with records.database.begin() as tx:
        return pick_due_deliveries(tx, records.clock(), limit, enqueued_before or records.clock() + SECOND, places)


@pytest.mark.parametrize("verb", ENDS)
def test_no_end_of_a_background_job_can_forget_its_event(records: Records, verb: Verb) -> None:
    """Whatever ends it goes through `move`, so this is all the ways there are, and there will be."""
    endpoint(records)
    job = records.job_in(min(TRANSITIONS[verb].sources))
    ended = records.move(verb, job)
    assert events(records) == [(job.id, f"response.{ended.status}")]
    assert len(delivery_ids(records, job)) == 1


@pytest.mark.parametrize("status", sorted(Status))
def test_only_background_jobs_that_end_are_told_of(records: Records, status: Status) -> None:
    endpoint(records)
    records.job_in(status, background=False)
    assert events(records) == []
    records.job_in(status)
    assert len(events(records)) == (status in TERMINAL)


def test_an_end_that_is_rolled_back_was_no_event(records: Records) -> None:
    endpoint(records)
    job = records.submit_job()
    with records.database.begin() as tx:
        move_one(tx, Verb.CANCEL, job, records.clock())
        tx.rollback()
    assert events(records) == []


def test_each_end_of_a_job_that_is_retried_is_an_event_of_its_own(records: Records) -> None:
    endpoint(records)
    job = records.job_in(Status.CANCELLED)
    records.move(Verb.CANCEL, records.move(Verb.RETRY, job))
    assert events(records) == [(job.id, "response.cancelled")] * 2


def test_only_the_keys_own_endpoints_hear_of_it_and_the_one_that_the_request_named(records: Records) -> None:
    other = make_key(records.database, "other")
    mine, theirs = endpoint(records), endpoint(records, key=other)
    records.job_in(Status.COMPLETED, webhook=TARGET)
    records.job_in(Status.FAILED, webhook=TARGET)  # which that one does not want to hear of
    row = schema.webhook_deliveries.c
    with records.database.read() as tx:
        told = [each.endpoint_id for each in tx.execute(select(row.endpoint_id))]
        assert store.list_endpoints(tx, records.key.id, limit=10) == ([mine], False)
    assert len(told) == 3
    assert told.count(mine.id) == 2
    assert theirs.id not in told


def test_a_delivery_is_claimed_once(records: Records) -> None:
    endpoint(records)
    [delivery_id] = delivery_ids(records, records.job_in(Status.COMPLETED))

    def claim() -> bool:
        with records.database.begin() as tx:
            return delivery_id in claim_deliveries(tx, [delivery_id], records.worker_id, records.clock())

    assert sorted(race(*[claim] * 4)) == [False, False, False, True]


def test_of_several_each_is_claimed_once_however_many_want_them_in_whatever_order(records: Records) -> None:
    endpoint(records)
    ids = [delivery_ids(records, records.job_in(Status.COMPLETED))[0] for _ in range(20)]

    def claim(wanted: list[str]) -> list[str]:
        with records.database.begin() as tx:
            claimed = claim_deliveries(tx, wanted, records.worker_id, records.clock())
        assert all(each.id == delivery_id and each.number == 1 for delivery_id, each in claimed.items())
        return list(claimed)

    mine, yours = race(lambda: claim(ids), lambda: claim(ids[::-1]))
    assert sorted(mine + yours) == sorted(ids)


class TestRescue:
    def test_what_a_worker_that_is_gone_was_sending_is_due_at_once(self, records: Records) -> None:
        hook = endpoint(records)
        [delivery_id] = delivery_ids(records, records.job_in(Status.COMPLETED))
        with records.database.begin() as tx:
            assert claim_deliveries(tx, [delivery_id], records.worker_id, records.clock())
            assert rescue_deliveries(tx, records.clock()) == []
            workers.leave(tx, records.worker_id, records.clock())
            assert rescue_deliveries(tx, records.clock()) == [delivery_id]
            assert rescue_deliveries(tx, records.clock()) == []
        assert due(records) == [delivery_id]
        assert log_of(records, hook) == [(DeliveryStatus.PENDING, [(DeliveryError.LOST, None)])]

    def rescued(self, records: Records) -> ClaimedDelivery:
        [delivery_id] = delivery_ids(records, records.job_in(Status.COMPLETED))
        sending = claim(records, delivery_id, records.worker_id)
        with records.database.begin() as tx:
            workers.leave(tx, records.worker_id, records.clock())
            assert rescue_deliveries(tx, records.clock()) == [delivery_id]
        return sending

    def test_a_lost_try_that_reports_before_the_next_spares_it(self, records: Records) -> None:
        hook = endpoint(records)
        sending = self.rescued(records)
        assert report(records, sending, DeliveryReport(None, 200)) is DeliveryStatus.DELIVERED
        assert due(records) == []
        assert log_of(records, hook) == [(DeliveryStatus.DELIVERED, [(DeliveryError.LOST, 200)])]

    @pytest.mark.parametrize(("error", "status"), [(None, 200), (DeliveryError.HTTP_ERROR, 500)])
    def test_a_lost_try_stays_lost_whatever_it_reports_later(
        self, records: Records, error: DeliveryError | None, status: int
    ) -> None:
        """It is why the event was sent twice; beside it stands what the receiver answered."""
        hook = endpoint(records)
        late = self.rescued(records)
        again = claim(records, late.id, records.worker())
        assert report(records, late, DeliveryReport(error, status)) is None
        assert log_of(records, hook) == [(DeliveryStatus.SENDING, [(DeliveryError.LOST, status), (None, None)])]
        assert report(records, again, DeliveryReport(None, 204)) is DeliveryStatus.DELIVERED
        assert report(records, late, DeliveryReport(error, status)) is None
        assert log_of(records, hook) == [(DeliveryStatus.DELIVERED, [(DeliveryError.LOST, status), (None, 204)])]

    def test_a_try_that_reports_while_it_is_given_up_is_not_forgotten(self, records: Records) -> None:
        hook = endpoint(records)
        ids = [delivery_ids(records, records.job_in(Status.COMPLETED))[0] for _ in range(40)]
        sent = [claim(records, each, records.worker_id) for each in sorted(ids)]
        with records.database.begin() as tx:
            workers.leave(tx, records.worker_id, records.clock())

        def rescue() -> None:
            with records.database.begin() as tx:
                rescue_deliveries(tx, records.clock())

        def report_all() -> None:
            for sending in reversed(sent):
                report(records, sending, DeliveryReport(None, 200))

        race(rescue, report_all)
        assert {(status, attempts[0][1]) for status, attempts in log_of(records, hook)} == {
            (DeliveryStatus.DELIVERED, 200)
        }

    def lose(self, records: Records, delivery_id: str, *, released: bool) -> None:
        """One try whose worker dies, or whose worker hands it back."""
        sending = claim(records, delivery_id, worker_id := records.worker())
        if released:
            assert report(records, sending, DeliveryReport(DeliveryError.LOST)) is not None
            return
        with records.database.begin() as tx:
            workers.leave(tx, worker_id, records.clock())
            assert rescue_deliveries(tx, records.clock()) == [delivery_id]

    @pytest.mark.parametrize("released", [False, True], ids=["died", "handed back"])
    def test_one_that_is_lost_at_every_try_fails_as_scheduled_and_its_endpoint_is_disabled(
        self, records: Records, *, released: bool
    ) -> None:
        hook = endpoint(records)
        [delivery_id] = delivery_ids(records, records.job_in(Status.COMPLETED))
        [later] = delivery_ids(records, records.job_in(Status.COMPLETED))
        started_at = records.clock()
        tried_at: list[timedelta] = []
        while status_of(records, delivery_id) == DeliveryStatus.PENDING:
            assert len(tried_at) < 100
            if due(records):
                tried_at.append(records.clock() - started_at)
                self.lose(records, delivery_id, released=released)
            else:
                records.clock.advance(timedelta(minutes=30))
            with records.database.begin() as tx:  # which is not what this test is about
                tx.execute(
                    update(schema.webhook_deliveries)
                    .where(schema.webhook_deliveries.c.id == later)
                    .values(available_at=records.clock() + SECOND)
                )
        assert len(tried_at) == MOST_LOST_IN_A_ROW + MAX_FAILURES
        assert tried_at[MOST_LOST_IN_A_ROW] == timedelta(0)
        assert tried_at[-1] > timedelta(days=3)
        with records.database.read() as tx:
            assert store.get_endpoint(tx, hook.id, hook.api_key_id).failing_since == started_at
        records.clock.advance(timedelta(days=5))
        for _ in range(MOST_LOST_IN_A_ROW + 1):
            assert due(records) == [later]
            self.lose(records, later, released=released)
        assert status_of(records, later) == DeliveryStatus.FAILED
        with records.database.read() as tx:
            assert store.get_endpoint(tx, hook.id, hook.api_key_id).disabled_for is DisabledFor.FAILING

    def test_a_try_that_reports_ends_the_row_of_lost_ones(self, records: Records) -> None:
        endpoint(records)
        [delivery_id] = delivery_ids(records, records.job_in(Status.COMPLETED))
        for _ in range(3):
            for _ in range(MOST_LOST_IN_A_ROW):
                assert due(records) == [delivery_id]
                self.lose(records, delivery_id, released=False)
            report(
                records, claim(records, delivery_id, records.worker()), DeliveryReport(DeliveryError.HTTP_ERROR, 500)
            )
            records.clock.advance(timedelta(hours=1))
        with records.database.read() as tx:
            row = schema.webhook_deliveries.c
            assert tx.execute(select(row.failures, row.attempts)).one() == (3, 9)

    def test_so_is_a_claim_that_was_never_confirmed(self, records: Records) -> None:
        endpoint(records)
        [delivery_id] = delivery_ids(records, records.job_in(Status.COMPLETED))
        with records.database.begin() as tx:
            claim_deliveries(tx, [delivery_id], records.worker_id, records.clock())
            assert rescue_deliveries(tx, records.clock() + CLAIM_TIMEOUT) == []
            assert rescue_deliveries(tx, records.clock() + CLAIM_TIMEOUT + SECOND) == [delivery_id]


class TestTheScheduler:
    def test_receivers_take_turns(self, records: Records) -> None:
        keys = {name: make_key(records.database, name) for name in "abc"}
        for name, key in keys.items():
            endpoint(records, f"receiver {name}", key)
        for name in "aaaaabbc":
            records.move(Verb.CANCEL, records.submit_job(keys[name]))
            records.clock.advance(SECOND)
        row = schema.webhook_deliveries.c
        picked = due(records, 7)
        with records.database.read() as tx:
            targets = {each.id: each.target for each in tx.execute(select(row.id, row.target))}
        assert "".join(targets[each][-1] for each in picked) == "abcab"

    def test_one_receiver_is_offered_one_more_than_are_out_up_to_a_bound(self, records: Records) -> None:
        endpoint(records)
        ids = [delivery_ids(records, records.job_in(Status.CANCELLED))[0] for _ in range(MOST_PER_TARGET + 4)]
        assert due(records) == ids[:2]
        for number, each in enumerate(ids[:MOST_PER_TARGET], 1):
            with records.database.begin() as tx:
                assert claim_deliveries(tx, [each], records.worker_id, records.clock())
            assert due(records) == (ids[number : number + 1] if number < MOST_PER_TARGET else [])

    def test_a_key_is_offered_its_share_of_the_places_and_the_next_key_goes_first(self, records: Records) -> None:
        """However many receivers it names: the bells for them would stand before everybody else's, and in vain."""
        other = make_key(records.database, "other")
        for number in range(70):
            endpoint(records, f"receiver {number:02}")
        endpoint(records, "their receiver", other)
        many = delivery_ids(records, records.job_in(Status.CANCELLED))
        records.clock.advance(SECOND)
        [theirs] = delivery_ids(records, records.move(Verb.CANCEL, records.submit_job(other)))
        offered = due(records, places=20)
        assert (offered[1], len(offered)) == (theirs, 16)
        with records.database.begin() as tx:
            assert len(claim_deliveries(tx, offered[:1] + offered[2:], records.worker_id, records.clock())) == 15
        assert due(records, places=20) == [theirs]
        more = due(records, places=40)
        assert (more[0], len(more)) == (theirs, 16)
        assert set(more[1:]) <= set(many) - set(offered)
        assert len(due(records)) == 56

    def test_a_bell_that_was_rung_is_not_rung_again_at_once(self, records: Records) -> None:
        endpoint(records)
        [delivery_id] = delivery_ids(records, records.job_in(Status.CANCELLED))
        now = records.clock()
        assert due(records, enqueued_before=now) == []  # rung by whoever ended the job
        records.clock.advance(SECOND)
        assert due(records, enqueued_before=records.clock()) == [delivery_id]
        assert due(records, enqueued_before=records.clock()) == []

    def test_what_waits_for_its_next_try_is_not_due(self, records: Records) -> None:
        endpoint(records)
        [delivery_id] = delivery_ids(records, records.job_in(Status.CANCELLED))
        row = schema.webhook_deliveries.c
        with records.database.begin() as tx:
            tx.execute(update(schema.webhook_deliveries).values(available_at=records.clock() + SECOND))
            assert tx.execute(select(row.id)).scalar_one() == delivery_id
        assert due(records) == []


class TestErasure:
    def prune(self, records: Records, before: datetime) -> int:
        with records.database.begin() as tx:
            return prune_events(tx, before, first_id_at("evt", before), first_id_at("resp", before), 100)

    def test_events_go_after_their_time_unless_they_are_still_on_their_way(self, records: Records) -> None:
        now = datetime.now(UTC)  # as ids are made by the real clock
        records = Records(records.database, Clock(now))
        hook = endpoint(records)
        told, waiting = records.job_in(Status.CANCELLED), records.job_in(Status.CANCELLED)
        [delivery_id] = delivery_ids(records, told)
        with records.database.begin() as tx:
            sending = claim_deliveries(tx, [delivery_id], records.worker_id, now)[delivery_id]
            record_delivery_attempt(tx, sending, DeliveryReport(None, 200), now, 0)
        assert self.prune(records, now - SECOND) == 0
        assert self.prune(records, now + 2 * SECOND) == 1
        assert events(records) == [(waiting.id, "response.cancelled")]
        with records.database.read() as tx:
            assert [each.response_id for each in store.list_deliveries(tx, hook, limit=10)[0]] == [waiting.id]

    def test_what_a_request_named_goes_with_its_response_once_it_was_told(self, records: Records) -> None:
        records = Records(records.database, Clock(datetime.now(UTC)))
        job = records.job_in(Status.COMPLETED, webhook=TARGET, deadline_at=records.clock() + timedelta(days=1))
        [delivery_id] = delivery_ids(records, job)
        with records.database.begin() as tx:
            erase(tx, get_job(tx, job.id))
            assert tx.execute(select(schema.webhook_endpoints.c.id)).first() is not None
        with records.database.begin() as tx:
            sending = claim_deliveries(tx, [delivery_id], records.worker_id, records.clock())[delivery_id]
            record_delivery_attempt(tx, sending, DeliveryReport(None, 200), records.clock(), 0)
        assert self.prune(records, records.clock() + 2 * SECOND) == 1
        with records.database.read() as tx:
            assert tx.execute(select(schema.webhook_endpoints.c.id)).first() is None

    def test_and_at_once_if_there_is_nothing_to_tell(self, records: Records) -> None:
        job = records.job_in(Status.FAILED, webhook=TARGET)
        with records.database.begin() as tx:
            erase(tx, job)
            assert tx.execute(select(schema.webhook_endpoints.c.id)).first() is None

    def test_an_endpoint_goes_with_its_log(self, records: Records) -> None:
        hook = endpoint(records)
        [delivery_id] = delivery_ids(records, records.job_in(Status.CANCELLED))
        with records.database.begin() as tx:
            assert claim_deliveries(tx, [delivery_id], records.worker_id, records.clock())
            store.delete_endpoint(tx, hook)
            for table in (schema.webhook_deliveries, schema.webhook_delivery_attempts):
                assert tx.execute(select(table)).first() is None
