"""Deliveries from the outbox to a real HTTP server, at the times of a clock that the test advances."""

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs

from jobs.encryption import Cipher
from jobs.lifecycle import TERMINAL, Status
from jobs.store import schema
from jobs.store.database import Database
from jobs.store.webhooks import delivery_log
from jobs.store.webhooks import endpoints as store
from jobs.webhooks.protocol import (
    MAX_FAILURES,
    SCHEDULE,
    DeliveryError,
    DeliveryStatus,
    DisabledFor,
    EventType,
    new_secret,
)
from jobs.webhooks.url_policy import Address
from tests.support.no_files import no_more_files
from tests.support.records import Records
from tests.support.webhook_endpoint import OK, Answer, Delivered, Destination
from tests.webhooks.posting import poster
from tests.webhooks.world import World

OTHER_SECRET = new_secret(b"o" * 32)
BROKEN = Answer(500)
DAY = timedelta(days=1)


@pytest.fixture
def destination() -> Iterator[Destination]:
    with Destination() as destination:
        yield destination


@pytest.fixture
def world(records: Records) -> World:
    return World(records)


class OnSqlite:
    """Base of tests that need only one database."""

    @pytest.fixture
    def database(self, sqlite_url: str) -> Iterator[Database]:
        opened = Database(sqlite_url)
        yield opened
        opened.close()


def fails(times: int, answer: Answer = BROKEN) -> "Failing":
    return Failing(times, answer)


class Failing:
    """Gives `answer` to the first `times` deliveries of each event, and then OK."""

    def __init__(self, times: int, answer: Answer) -> None:
        self.times, self.answer, self.seen = times, answer, dict[str, int]()

    def __call__(self, delivered: Delivered) -> Answer:
        self.seen[delivered.id] = self.seen.get(delivered.id, 0) + 1
        return self.answer if self.seen[delivered.id] <= self.times else OK


class TestSchedule(OnSqlite):
    @pytest.mark.parametrize("failures", [0, 1, 4, 9])
    def test_n_failures_and_a_success_are_n_plus_one_attempts_on_schedule(
        self, world: World, destination: Destination, failures: int
    ) -> None:
        destination.answer = fails(failures)
        endpoint = world.endpoint(destination.url)
        world.end_a_job()
        started_at = world.clock()
        world.run_for(5 * DAY)
        [delivery] = world.log(endpoint)
        due = [started_at]
        for delay in SCHEDULE[:failures]:
            due.append(due[-1] + delay)
        assert [each.started_at for each in delivery.attempts] == due
        assert [each.number for each in delivery.attempts] == list(range(1, failures + 2))
        assert [each.error_kind for each in delivery.attempts] == [*[DeliveryError.HTTP_ERROR] * failures, None]
        assert delivery.status is DeliveryStatus.DELIVERED
        assert len(destination.delivered) == failures + 1
        assert len(set(destination.ids())) == 1
        timestamps = [int(each.headers["webhook-timestamp"]) for each in destination.delivered]
        assert timestamps == [int(moment.timestamp()) for moment in due]
        assert len({each.headers["webhook-signature"] for each in destination.delivered}) == failures + 1
        assert len({each.body for each in destination.delivered}) == 1

    def test_a_delivery_fails_after_ten_failures(self, world: World, destination: Destination) -> None:
        destination.answer = lambda _: BROKEN
        endpoint = world.endpoint(destination.url)
        world.end_a_job()
        world.run_for(6 * DAY)
        [delivery] = world.log(endpoint)
        assert (delivery.status, len(delivery.attempts), len(destination.delivered)) == (DeliveryStatus.FAILED, 10, 10)
        assert world.reload(endpoint).disabled_at is None  # ten attempts at one event take less than five days

    def test_jitter_only_adds_delay(self, world: World, destination: Destination) -> None:
        world.jitter = 0.5
        destination.answer = fails(1)
        endpoint = world.endpoint(destination.url)
        world.end_a_job()
        world.run_for(DAY)
        [delivery] = world.log(endpoint)
        first, second = (each.started_at for each in delivery.attempts)
        assert second - first == SCHEDULE[0] * 1.05

    @pytest.mark.parametrize(("status", "heeded"), [(429, True), (503, True), (500, False)])
    def test_retry_after_is_heeded_with_429_and_503(
        self, world: World, destination: Destination, status: int, heeded: bool
    ) -> None:
        destination.answer = fails(1, Answer(status, {"retry-after": "90"}))
        endpoint = world.endpoint(destination.url)
        world.end_a_job()
        world.run_for(DAY)
        first, second = (each.started_at for each in world.log(endpoint)[0].attempts)
        assert second - first == (timedelta(seconds=90) if heeded else SCHEDULE[0])

    @pytest.mark.parametrize(
        "nonsense", ["1e999999", "Sun, 22 Nov 99999999999 12:00:00 GMT", "-1", "NaN", "\xff\xb2", "9" * 5000]
    )
    def test_a_malformed_retry_after_is_ignored_and_each_attempt_counts(
        self, world: World, destination: Destination, nonsense: str
    ) -> None:
        destination.answer = lambda _: Answer(429, {"retry-after": nonsense})
        endpoint = world.endpoint(destination.url)
        world.end_a_job()
        started_at = world.clock()
        world.run_for(6 * DAY)
        [delivery] = world.log(endpoint)
        assert (delivery.status, len(delivery.attempts)) == (DeliveryStatus.FAILED, MAX_FAILURES)
        assert {each.error_kind for each in delivery.attempts} == {DeliveryError.HTTP_ERROR}
        assert delivery.attempts[1].started_at - started_at == SCHEDULE[0]
        assert world.reload(endpoint).failing_since == started_at

    def test_an_unexpected_error_counts_as_a_failure(self, world: World) -> None:
        def broken(_host: str, _port: int, _seconds: float) -> list[Address]:
            raise RuntimeError("an unexpected error")

        breaking = World(world.records, poster(resolve=broken), world.cipher)
        endpoint = breaking.endpoint("http://breaks.example.com/")
        breaking.end_a_job()
        breaking.run_for(6 * DAY)
        [delivery] = breaking.log(endpoint)
        assert (delivery.status, len(delivery.attempts)) == (DeliveryStatus.FAILED, MAX_FAILURES)
        assert {each.error_kind for each in delivery.attempts} == {DeliveryError.INTERRUPTED}

    def test_a_shortage_of_this_process_is_no_attempt(self, world: World, destination: Destination) -> None:
        endpoint = world.endpoint(destination.url)
        world.end_a_job()
        with capture_logs() as logged, no_more_files():
            for _ in range(MAX_FAILURES + 1):
                assert world.deliver_due() == 1
        [delivery] = world.log(endpoint)
        assert (delivery.status, delivery.attempts, delivery.error_kind) == (DeliveryStatus.PENDING, (), None)
        assert world.reload(endpoint).failing_since is None
        reasons = [each["reason"] for each in logged if each["event"] == "deliveries released"]
        assert reasons == ["too many open files"]
        world.deliver_due()
        [delivery] = world.log(endpoint)
        assert (delivery.status, len(delivery.attempts)) == (DeliveryStatus.DELIVERED, 1)

    def test_a_delivery_that_times_out_is_attempted_again(self, world: World, destination: Destination) -> None:
        destination.answer = fails(1, Answer(hang=30))
        endpoint = world.endpoint(destination.url)
        world.end_a_job()
        world.run_for(DAY)
        [delivery] = world.log(endpoint)
        assert [each.error_kind for each in delivery.attempts] == [DeliveryError.TIMED_OUT, None]

    def test_a_delivery_whose_secret_cannot_be_decrypted_waits_for_its_key(
        self, world: World, destination: Destination
    ) -> None:
        endpoint = world.endpoint(destination.url)
        world.end_a_job()
        keyless = World(world.records, world.post, Cipher([]))
        keyless.deliver_due()
        assert destination.delivered == []
        assert world.log(endpoint)[0].error_kind is DeliveryError.SECRET_UNREADABLE
        world.run_for(timedelta(minutes=1))
        assert world.log(endpoint)[0].status is DeliveryStatus.DELIVERED


class TestHealth:
    def test_an_endpoint_failing_for_five_days_is_warned_of_then_disabled(
        self, world: World, destination: Destination
    ) -> None:
        destination.answer = lambda _: BROKEN
        endpoint = world.endpoint(destination.url)
        for _ in range(7):
            world.end_a_job()
            world.run_for(DAY)
        disabled = world.reload(endpoint)
        assert disabled.disabled_for is DisabledFor.FAILING
        assert disabled.failing_since is not None
        assert disabled.disabled_at is not None
        assert timedelta(days=5) <= disabled.disabled_at - disabled.failing_since < timedelta(days=6)
        row = schema.webhook_endpoints.c
        with world.database.read() as tx:
            warned_at = tx.execute(select(row.warned_at)).scalar_one()
        assert disabled.failing_since + 2 * DAY <= warned_at < disabled.disabled_at
        statuses = {each.status for each in world.log(endpoint)}
        assert statuses == {DeliveryStatus.FAILED}
        assert world.due() == []

    def test_recover_sends_each_missed_event_once(self, world: World, destination: Destination) -> None:
        destination.answer = lambda _: BROKEN
        endpoint = world.endpoint(destination.url)
        begun_at = world.clock()
        for _ in range(7):
            world.end_a_job()
            world.run_for(DAY)
        world.end_a_job(Status.FAILED)
        before, missed = len(destination.delivered), world.log(endpoint)
        assert len(missed) == 8
        assert len({each.event_id for each in missed}) == 8
        destination.answer = lambda _: OK
        with world.database.begin() as tx:
            assert delivery_log.recover(tx, world.reload(endpoint), begun_at + DAY / 2, world.clock()) == 7
        world.run_for(DAY)
        replayed = destination.ids()[before:]
        assert sorted(replayed) == sorted(each.event_id for each in missed[:7])
        with world.database.begin() as tx:
            assert delivery_log.recover(tx, world.reload(endpoint), begun_at + DAY / 2, world.clock()) == 0
        healthy = world.reload(endpoint)
        assert (healthy.disabled_at, healthy.failing_since) == (None, None)

    def test_gone_disables_at_once(self, world: World, destination: Destination) -> None:
        destination.answer = lambda _: Answer(410)
        endpoint = world.endpoint(destination.url)
        for _ in range(3):
            world.end_a_job()
        [first, *_others] = world.due()
        world.sender.run(first)
        assert world.reload(endpoint).disabled_for is DisabledFor.GONE
        assert [each.error_kind for each in world.log(endpoint)].count(DeliveryError.ENDPOINT_DISABLED) == 2
        assert world.due() == []
        assert len(destination.delivered) == 1

    def test_one_success_resets_the_time_of_failing(self, world: World, destination: Destination) -> None:
        destination.answer = fails(3)
        endpoint = world.endpoint(destination.url)
        for _ in range(8):
            world.end_a_job()
            world.run_for(DAY)
        assert world.reload(endpoint).disabled_at is None
        assert world.reload(endpoint).failing_since is None

    def test_redeliver_is_one_more_attempt(self, world: World, destination: Destination) -> None:
        endpoint = world.endpoint(destination.url)
        world.end_a_job()
        world.deliver_due()
        [delivery] = world.log(endpoint)
        destination.answer = lambda _: BROKEN
        for attempts in (2, 3):
            with world.database.begin() as tx:
                assert delivery_log.redeliver(tx, delivery.id, world.clock())
            world.run_for(5 * DAY)
            [delivery] = world.log(endpoint)
            assert (delivery.status, len(delivery.attempts)) == (DeliveryStatus.FAILED, attempts)
        assert destination.ids() == [delivery.event_id] * 3


class TestRuns:
    def test_a_run_reports_whether_due_deliveries_may_be_left(self, world: World, destination: Destination) -> None:
        world.endpoint(destination.url)
        world.end_a_job()
        world.end_a_job()
        first, second = world.due()
        assert world.sender.run(first)
        assert world.sender.run(second)  # was sent along with the first
        world.end_a_job()
        destination.answer = lambda _: BROKEN
        assert not world.sender.run(*world.due())

    def test_a_working_target_gets_its_other_due_deliveries_without_messages(
        self, world: World, destination: Destination
    ) -> None:
        world.endpoint(destination.url)
        for _ in range(5):
            world.end_a_job()
        first = world.due()[0]
        world.sender.run(first)
        assert len(set(destination.ids())) == len(destination.delivered) == 5

    def test_a_stale_message_changes_nothing(self, world: World, destination: Destination) -> None:
        endpoint = world.endpoint(destination.url)
        world.end_a_job()
        [delivery] = world.log(endpoint)
        for _ in range(3):
            world.sender.run(delivery.id)
        world.sender.run("whd_0")
        assert len(destination.delivered) == 1

    def test_a_delivery_that_was_rescued_meanwhile_is_not_recorded_twice(
        self, world: World, destination: Destination
    ) -> None:
        endpoint = world.endpoint(destination.url)
        world.end_a_job()
        row = schema.webhook_deliveries.c

        def rescued_meanwhile(_: Delivered) -> Answer:
            with world.database.begin() as tx:
                values = {"status": DeliveryStatus.PENDING, "worker_id": None}
                tx.execute(update(schema.webhook_deliveries).where(row.attempts == 1).values(values))
            return OK

        destination.answer = rescued_meanwhile
        world.deliver_due()  # and then the rescued one, which is due as well
        [delivery] = world.log(endpoint)
        assert (delivery.status, len(delivery.attempts)) == (DeliveryStatus.DELIVERED, 2)
        assert destination.ids() == [delivery.event_id] * 2

    def test_an_endpoint_deleted_during_a_delivery_leaves_nothing(self, world: World, destination: Destination) -> None:
        endpoint = world.endpoint(destination.url)
        world.end_a_job()

        def deleted_meanwhile(_: Delivered) -> Answer:
            with world.database.begin() as tx:
                store.delete_endpoint(tx, endpoint)
            return OK

        destination.answer = deleted_meanwhile
        assert world.deliver_due() == 1
        with world.database.read() as tx:
            assert tx.execute(select(schema.webhook_deliveries)).all() == []

    def test_an_endpoint_gets_only_the_events_it_is_subscribed_to(self, world: World, destination: Destination) -> None:
        world.endpoint(destination.url, [EventType.FAILED])
        for status in sorted(TERMINAL):
            world.end_a_job(status)
            world.end_a_job(status, background=False)
        world.deliver_due()
        assert [json.loads(each.body)["type"] for each in destination.delivered] == ["response.failed"]
