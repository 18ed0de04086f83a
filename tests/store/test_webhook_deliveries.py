"""The webhook outbox: written with the end of a job, claimed once, rescued, and pruned."""

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
from jobs.store.webhooks import delivery_log
from jobs.store.webhooks import endpoints as store
from jobs.store.webhooks.claims import ClaimedDelivery, claim_deliveries
from jobs.store.webhooks.endpoints import EncryptedSecret, Endpoint
from jobs.store.webhooks.pruning import prune_events
from jobs.store.webhooks.results import CLAIM_TIMEOUT, record_delivery_attempt, rescue_deliveries
from jobs.store.webhooks.scheduler import pick_due_deliveries
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
from tests.support.records import ANSWER, Records, make_key, move_one, pending_deliveries
from worker.outcome import EndedCall, record_outcomes

SECOND = timedelta(seconds=1)
ENDS = sorted(verb for verb, each in TRANSITIONS.items() if each.target.is_terminal)
AttemptEnd = tuple[DeliveryError | None, int | None]
"""An attempt's error and HTTP status."""
TARGET = WebhookTarget("https://example.com/", "target", ("response.completed",), None)


def endpoint(records: Records, target: str = "a target", key: ApiKey | None = None) -> Endpoint:
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
        return pending_deliveries(tx, job.id)


def test_recording_outcomes_returns_the_deliveries_to_enqueue(records: Records) -> None:
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
        recorded, deliveries = record_outcomes(tx, calls)
    assert len(recorded) == 3
    assert len(deliveries) == 3  # the key's endpoint gets two of them, and one job names an endpoint of its own
    assert sorted(deliveries) == sorted(each for job in submitted for each in delivery_ids(records, job))


def status_of(records: Records, delivery_id: str) -> str:
    with records.database.read() as tx:
        row = schema.webhook_deliveries.c
        return str(tx.execute(select(row.status).where(row.id == delivery_id)).scalar_one())


def claim(records: Records, delivery_id: str, worker_id: str) -> ClaimedDelivery:
    with records.database.begin() as tx:
        return claim_deliveries(tx, [delivery_id], worker_id, records.clock())[delivery_id]


def report(records: Records, claimed: ClaimedDelivery, result: DeliveryReport) -> DeliveryStatus | None:
    with records.database.begin() as tx:
        return record_delivery_attempt(tx, claimed, result, records.clock(), 0).status


def log_of(records: Records, endpoint: Endpoint) -> list[tuple[DeliveryStatus, list[AttemptEnd]]]:
    with records.database.read() as tx:
        found = delivery_log.list_deliveries(tx, endpoint, limit=100)[0]
    return [(each.status, [(made.error_kind, made.http_status) for made in each.attempts]) for each in found]


def due(
    records: Records, limit: int = 100, enqueued_before: datetime | None = None, slots: int | None = None
) -> list[str]:
    with records.database.begin() as tx:
        return pick_due_deliveries(tx, records.clock(), limit, enqueued_before or records.clock() + SECOND, slots)


@pytest.mark.parametrize("verb", ENDS)
def test_every_end_of_a_background_job_is_an_event(records: Records, verb: Verb) -> None:
    """Every end goes through `move`, so these are all the ways a job can end."""
    endpoint(records)
    job = records.job_in(min(TRANSITIONS[verb].sources))
    ended = records.move(verb, job)
    assert events(records) == [(job.id, f"response.{ended.status}")]
    assert len(delivery_ids(records, job)) == 1


@pytest.mark.parametrize("status", sorted(Status))
def test_only_background_jobs_that_end_are_events(records: Records, status: Status) -> None:
    endpoint(records)
    records.job_in(status, background=False)
    assert events(records) == []
    records.job_in(status)
    assert len(events(records)) == (status in TERMINAL)


def test_an_end_that_is_rolled_back_is_no_event(records: Records) -> None:
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


def test_an_event_goes_to_the_keys_endpoints_and_the_one_that_the_request_named(records: Records) -> None:
    other = make_key(records.database, "other")
    mine, theirs = endpoint(records), endpoint(records, key=other)
    records.job_in(Status.COMPLETED, webhook=TARGET)
    records.job_in(Status.FAILED, webhook=TARGET)  # to which that one is not subscribed
    row = schema.webhook_deliveries.c
    with records.database.read() as tx:
        endpoint_ids = [each.endpoint_id for each in tx.execute(select(row.endpoint_id))]
        assert store.list_endpoints(tx, records.key.id, limit=10) == ([mine], False)
    assert len(endpoint_ids) == 3
    assert endpoint_ids.count(mine.id) == 2
    assert theirs.id not in endpoint_ids


def test_a_delivery_is_claimed_once(records: Records) -> None:
    endpoint(records)
    [delivery_id] = delivery_ids(records, records.job_in(Status.COMPLETED))

    def claim() -> bool:
        with records.database.begin() as tx:
            return delivery_id in claim_deliveries(tx, [delivery_id], records.worker_id, records.clock())

    assert sorted(race(*[claim] * 4)) == [False, False, False, True]


def test_of_several_deliveries_each_is_claimed_once_in_any_order(records: Records) -> None:
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
    def test_a_delivery_of_a_dead_worker_is_due_at_once(self, records: Records) -> None:
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
        claimed = claim(records, delivery_id, records.worker_id)
        with records.database.begin() as tx:
            workers.leave(tx, records.worker_id, records.clock())
            assert rescue_deliveries(tx, records.clock()) == [delivery_id]
        return claimed

    def test_a_late_success_before_the_next_attempt_ends_the_delivery(self, records: Records) -> None:
        hook = endpoint(records)
        claimed = self.rescued(records)
        assert report(records, claimed, DeliveryReport(None, 200)) is DeliveryStatus.DELIVERED
        assert due(records) == []
        assert log_of(records, hook) == [(DeliveryStatus.DELIVERED, [(DeliveryError.LOST, 200)])]

    @pytest.mark.parametrize(("error", "status"), [(None, 200), (DeliveryError.HTTP_ERROR, 500)])
    def test_a_lost_attempt_stays_lost_whatever_it_reports_later(
        self, records: Records, error: DeliveryError | None, status: int
    ) -> None:
        """It is why the event was sent twice. Its late HTTP status is recorded beside the error."""
        hook = endpoint(records)
        late = self.rescued(records)
        again = claim(records, late.id, records.worker())
        assert report(records, late, DeliveryReport(error, status)) is None
        assert log_of(records, hook) == [(DeliveryStatus.SENDING, [(DeliveryError.LOST, status), (None, None)])]
        assert report(records, again, DeliveryReport(None, 204)) is DeliveryStatus.DELIVERED
        assert report(records, late, DeliveryReport(error, status)) is None
        assert log_of(records, hook) == [(DeliveryStatus.DELIVERED, [(DeliveryError.LOST, status), (None, 204)])]

    def test_a_success_reported_during_its_rescue_is_recorded(self, records: Records) -> None:
        hook = endpoint(records)
        ids = [delivery_ids(records, records.job_in(Status.COMPLETED))[0] for _ in range(40)]
        sent = [claim(records, each, records.worker_id) for each in sorted(ids)]
        with records.database.begin() as tx:
            workers.leave(tx, records.worker_id, records.clock())

        def rescue() -> None:
            with records.database.begin() as tx:
                rescue_deliveries(tx, records.clock())

        def report_all() -> None:
            for claimed in reversed(sent):
                report(records, claimed, DeliveryReport(None, 200))

        race(rescue, report_all)
        assert {(status, attempts[0][1]) for status, attempts in log_of(records, hook)} == {
            (DeliveryStatus.DELIVERED, 200)
        }

    def lose(self, records: Records, delivery_id: str, *, released: bool) -> None:
        """Lose one attempt: its worker dies, or hands it back."""
        claimed = claim(records, delivery_id, worker_id := records.worker())
        if released:
            assert report(records, claimed, DeliveryReport(DeliveryError.LOST)) is not None
            return
        with records.database.begin() as tx:
            workers.leave(tx, worker_id, records.clock())
            assert rescue_deliveries(tx, records.clock()) == [delivery_id]

    @pytest.mark.parametrize("released", [False, True], ids=["died", "handed back"])
    def test_a_delivery_lost_at_every_attempt_fails_as_scheduled_and_its_endpoint_is_disabled(
        self, records: Records, *, released: bool
    ) -> None:
        hook = endpoint(records)
        [delivery_id] = delivery_ids(records, records.job_in(Status.COMPLETED))
        [later] = delivery_ids(records, records.job_in(Status.COMPLETED))
        started_at = records.clock()
        attempted_at: list[timedelta] = []
        while status_of(records, delivery_id) == DeliveryStatus.PENDING:
            assert len(attempted_at) < 100
            if due(records):
                attempted_at.append(records.clock() - started_at)
                self.lose(records, delivery_id, released=released)
            else:
                records.clock.advance(timedelta(minutes=30))
            with records.database.begin() as tx:  # keep the other delivery out of the way
                tx.execute(
                    update(schema.webhook_deliveries)
                    .where(schema.webhook_deliveries.c.id == later)
                    .values(available_at=records.clock() + SECOND)
                )
        assert len(attempted_at) == MOST_LOST_IN_A_ROW + MAX_FAILURES
        assert attempted_at[MOST_LOST_IN_A_ROW] == timedelta(0)
        assert attempted_at[-1] > timedelta(days=3)
        with records.database.read() as tx:
            assert store.get_endpoint(tx, hook.id, hook.api_key_id).failing_since == started_at
        records.clock.advance(timedelta(days=5))
        for _ in range(MOST_LOST_IN_A_ROW + 1):
            assert due(records) == [later]
            self.lose(records, later, released=released)
        assert status_of(records, later) == DeliveryStatus.FAILED
        with records.database.read() as tx:
            assert store.get_endpoint(tx, hook.id, hook.api_key_id).disabled_for is DisabledFor.FAILING

    def test_an_attempt_that_reports_resets_the_count_of_lost_ones(self, records: Records) -> None:
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

    def test_a_claim_past_its_timeout_is_rescued(self, records: Records) -> None:
        endpoint(records)
        [delivery_id] = delivery_ids(records, records.job_in(Status.COMPLETED))
        with records.database.begin() as tx:
            claim_deliveries(tx, [delivery_id], records.worker_id, records.clock())
            assert rescue_deliveries(tx, records.clock() + CLAIM_TIMEOUT) == []
            assert rescue_deliveries(tx, records.clock() + CLAIM_TIMEOUT + SECOND) == [delivery_id]


class TestPruning:
    def prune(self, records: Records, before: datetime) -> int:
        with records.database.begin() as tx:
            return prune_events(tx, before, first_id_at("evt", before), first_id_at("resp", before), 100)

    def test_old_events_are_deleted_unless_a_delivery_is_open(self, records: Records) -> None:
        now = datetime.now(UTC)  # ids carry the real time
        records = Records(records.database, Clock(now))
        hook = endpoint(records)
        delivered, waiting = records.job_in(Status.CANCELLED), records.job_in(Status.CANCELLED)
        [delivery_id] = delivery_ids(records, delivered)
        with records.database.begin() as tx:
            claimed = claim_deliveries(tx, [delivery_id], records.worker_id, now)[delivery_id]
            record_delivery_attempt(tx, claimed, DeliveryReport(None, 200), now, 0)
        assert self.prune(records, now - SECOND) == 0
        assert self.prune(records, now + 2 * SECOND) == 1
        assert events(records) == [(waiting.id, "response.cancelled")]
        with records.database.read() as tx:
            assert [each.response_id for each in delivery_log.list_deliveries(tx, hook, limit=10)[0]] == [waiting.id]

    def test_an_endpoint_named_by_a_request_is_deleted_once_delivered_to(self, records: Records) -> None:
        records = Records(records.database, Clock(datetime.now(UTC)))
        job = records.job_in(Status.COMPLETED, webhook=TARGET, deadline_at=records.clock() + timedelta(days=1))
        [delivery_id] = delivery_ids(records, job)
        with records.database.begin() as tx:
            erase(tx, get_job(tx, job.id))
            assert tx.execute(select(schema.webhook_endpoints.c.id)).first() is not None
        with records.database.begin() as tx:
            claimed = claim_deliveries(tx, [delivery_id], records.worker_id, records.clock())[delivery_id]
            record_delivery_attempt(tx, claimed, DeliveryReport(None, 200), records.clock(), 0)
        assert self.prune(records, records.clock() + 2 * SECOND) == 1
        with records.database.read() as tx:
            assert tx.execute(select(schema.webhook_endpoints.c.id)).first() is None

    def test_an_endpoint_named_by_a_request_is_deleted_at_once_if_no_delivery_is_open(self, records: Records) -> None:
        job = records.job_in(Status.FAILED, webhook=TARGET)
        with records.database.begin() as tx:
            erase(tx, job)
            assert tx.execute(select(schema.webhook_endpoints.c.id)).first() is None

    def test_an_endpoint_is_deleted_with_its_log(self, records: Records) -> None:
        hook = endpoint(records)
        [delivery_id] = delivery_ids(records, records.job_in(Status.CANCELLED))
        with records.database.begin() as tx:
            assert claim_deliveries(tx, [delivery_id], records.worker_id, records.clock())
            store.delete_endpoint(tx, hook)
            for table in (schema.webhook_deliveries, schema.webhook_delivery_attempts):
                assert tx.execute(select(table)).first() is None
