"""Deliveries from the outbox to a real receiver, at the moments of a clock that the test moves."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks
from openai import InvalidWebhookSignatureError, OpenAI
from sqlalchemy import select, update
from structlog.testing import capture_logs

from jobs.encryption import Cipher
from jobs.lifecycle import TERMINAL, Status
from jobs.store import schema
from jobs.store.database import Database
from jobs.store.webhooks import endpoints as store
from jobs.store.webhooks.scheduler import MOST_PER_TARGET
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
from tests.support.clock import Clock
from tests.support.no_files import no_more_files
from tests.support.records import Records
from tests.support.webhook_endpoint import OK, Answer, Delivered, Destination
from tests.webhooks.posting import poster
from tests.webhooks.world import SECRET, World
from worker.webhooks.concurrency import WAITING_PER_TARGET, Backlog, Widths

OTHER_SECRET = new_secret(b"o" * 32)
BROKEN = Answer(500)
DAY = timedelta(days=1)


@pytest.fixture
def receiver() -> Iterator[Destination]:
    with Destination() as receiver:
        yield receiver


@pytest.fixture
def world(records: Records) -> World:
    return World(records)


class OnSqlite:
    """What has nothing to do with the database runs on one."""

    @pytest.fixture
    def database(self, sqlite_url: str) -> Iterator[Database]:
        opened = Database(sqlite_url)
        yield opened
        opened.close()


class TestWhatArrives(OnSqlite):
    @pytest.fixture
    def now_world(self, database: Database) -> World:
        """At the real time: a receiver refuses what is older than five minutes."""
        return World(Records(database, Clock(datetime.now(UTC))))

    @pytest.mark.parametrize("status", sorted(TERMINAL))
    def test_both_libraries_accept_every_event(self, now_world: World, receiver: Destination, status: Status) -> None:
        now_world.endpoint(receiver.url)
        job = now_world.end_a_job(status)
        assert now_world.deliver_due() == 1
        [came] = receiver.delivered
        event = OpenAI(api_key="none").webhooks.unwrap(came.body, dict(came.headers), secret=SECRET)
        assert (event.type, event.object) == (f"response.{status}", "event")
        assert event.id == came.id
        assert event.data.id == job.id  # type: ignore[union-attr]  # the union has events of other kinds
        assert type(event).__name__ == f"Response{status.capitalize()}WebhookEvent"
        assert standardwebhooks.Webhook(SECRET).verify(came.body, dict(came.headers)) == json.loads(came.body)
        assert came.headers["content-type"] == "application/json"
        assert came.headers["user-agent"].startswith("Backburner/")

    def test_a_tampered_byte_another_secret_and_an_old_timestamp_are_refused(
        self, now_world: World, receiver: Destination
    ) -> None:
        now_world.endpoint(receiver.url)
        now_world.end_a_job()
        now_world.deliver_due()
        [came] = receiver.delivered
        unwrap = OpenAI(api_key="none").webhooks.unwrap
        headers = dict(came.headers)
        tampered = came.body[:-3] + bytes([came.body[-3] ^ 1]) + came.body[-2:]
        later = headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}
        for body, fields, secret in (
            (tampered, headers, SECRET),
            (came.body, headers, OTHER_SECRET),
            (came.body, later, SECRET),
        ):
            with pytest.raises(InvalidWebhookSignatureError):
                unwrap(body, fields, secret=secret)
            with pytest.raises(standardwebhooks.WebhookVerificationError):
                standardwebhooks.Webhook(secret).verify(body, fields)

    def test_one_that_is_replayed_later_is_refused(self, database: Database, receiver: Destination) -> None:
        world = World(Records(database, Clock(datetime.now(UTC) - timedelta(minutes=6))))
        world.endpoint(receiver.url)
        world.end_a_job()
        world.deliver_due()
        [came] = receiver.delivered
        with pytest.raises(InvalidWebhookSignatureError, match="too old"):
            OpenAI(api_key="none").webhooks.unwrap(came.body, dict(came.headers), secret=SECRET)

    def test_two_signatures_while_the_old_secret_lives(self, now_world: World, receiver: Destination) -> None:
        endpoint = now_world.endpoint(receiver.url)
        fresh = store.EncryptedSecret(now_world.cipher.encrypt(OTHER_SECRET), "hint")
        with now_world.database.begin() as tx:
            store.rotate_secret(tx, endpoint, fresh, now_world.clock(), keep_old=True)
        now_world.end_a_job()
        now_world.deliver_due()
        [came] = receiver.delivered
        for secret in (SECRET, OTHER_SECRET):
            OpenAI(api_key="none").webhooks.unwrap(came.body, dict(came.headers), secret=secret)
        now_world.clock.advance(DAY + timedelta(seconds=1))
        now_world.end_a_job()
        now_world.deliver_due()
        assert len(receiver.delivered[-1].headers["webhook-signature"].split()) == 1


def fails(times: int, answer: Answer = BROKEN) -> "Failing":
    return Failing(times, answer)


class Failing:
    """The first so many deliveries of each event meet with `answer`."""

    def __init__(self, times: int, answer: Answer) -> None:
        self.times, self.answer, self.seen = times, answer, dict[str, int]()

    def __call__(self, delivered: Delivered) -> Answer:
        self.seen[delivered.id] = self.seen.get(delivered.id, 0) + 1
        return self.answer if self.seen[delivered.id] <= self.times else OK


class TestTheSchedule(OnSqlite):
    @pytest.mark.parametrize("failures", [0, 1, 4, 9])
    def test_n_failures_then_success_are_n_plus_one_tries_at_their_times(
        self, world: World, receiver: Destination, failures: int
    ) -> None:
        receiver.answer = fails(failures)
        endpoint = world.endpoint(receiver.url)
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
        assert len(receiver.delivered) == failures + 1
        assert len(set(receiver.ids())) == 1
        timestamps = [int(each.headers["webhook-timestamp"]) for each in receiver.delivered]
        assert timestamps == [int(moment.timestamp()) for moment in due]
        assert len({each.headers["webhook-signature"] for each in receiver.delivered}) == failures + 1
        assert len({each.body for each in receiver.delivered}) == 1

    def test_after_ten_failures_it_has_failed(self, world: World, receiver: Destination) -> None:
        receiver.answer = lambda _: BROKEN
        endpoint = world.endpoint(receiver.url)
        world.end_a_job()
        world.run_for(6 * DAY)
        [delivery] = world.log(endpoint)
        assert (delivery.status, len(delivery.attempts), len(receiver.delivered)) == (DeliveryStatus.FAILED, 10, 10)
        assert world.reload(endpoint).disabled_at is None  # ten tries of one event take less than five days

    def test_jitter_makes_it_later_and_never_earlier(self, world: World, receiver: Destination) -> None:
        world.jitter = 0.5
        receiver.answer = fails(1)
        endpoint = world.endpoint(receiver.url)
        world.end_a_job()
        world.run_for(DAY)
        [delivery] = world.log(endpoint)
        first, second = (each.started_at for each in delivery.attempts)
        assert second - first == SCHEDULE[0] * 1.05

    @pytest.mark.parametrize(("status", "heeded"), [(429, True), (503, True), (500, False)])
    def test_retry_after_is_heeded_where_it_means_a_pause(
        self, world: World, receiver: Destination, status: int, heeded: bool
    ) -> None:
        receiver.answer = fails(1, Answer(status, {"retry-after": "90"}))
        endpoint = world.endpoint(receiver.url)
        world.end_a_job()
        world.run_for(DAY)
        first, second = (each.started_at for each in world.log(endpoint)[0].attempts)
        assert second - first == (timedelta(seconds=90) if heeded else SCHEDULE[0])

    @pytest.mark.parametrize(
        "nonsense", ["1e999999", "Sun, 22 Nov 99999999999 12:00:00 GMT", "-1", "NaN", "\xff\xb2", "9" * 5000]
    )
    def test_a_retry_after_of_nonsense_is_no_hint_and_each_try_is_a_counted_failure(
        self, world: World, receiver: Destination, nonsense: str
    ) -> None:
        receiver.answer = lambda _: Answer(429, {"retry-after": nonsense})
        endpoint = world.endpoint(receiver.url)
        world.end_a_job()
        started_at = world.clock()
        world.run_for(6 * DAY)
        [delivery] = world.log(endpoint)
        assert (delivery.status, len(delivery.attempts)) == (DeliveryStatus.FAILED, MAX_FAILURES)
        assert {each.error_kind for each in delivery.attempts} == {DeliveryError.HTTP_ERROR}
        assert delivery.attempts[1].started_at - started_at == SCHEDULE[0]
        assert world.reload(endpoint).failing_since == started_at

    def test_whatever_breaks_in_a_delivery_is_a_counted_failure(self, world: World) -> None:
        def broken(_host: str, _port: int, _seconds: float) -> list[Address]:
            raise RuntimeError("nobody thought of this")

        breaking = World(world.records, poster(resolve=broken), world.cipher)
        endpoint = breaking.endpoint("http://breaks.example.com/")
        breaking.end_a_job()
        breaking.run_for(6 * DAY)
        [delivery] = breaking.log(endpoint)
        assert (delivery.status, len(delivery.attempts)) == (DeliveryStatus.FAILED, MAX_FAILURES)
        assert {each.error_kind for each in delivery.attempts} == {DeliveryError.INTERRUPTED}

    def test_what_this_process_is_short_of_is_no_try(self, world: World, receiver: Destination) -> None:
        endpoint = world.endpoint(receiver.url)
        world.end_a_job()
        with capture_logs() as logged, no_more_files():
            for _ in range(MAX_FAILURES + 1):
                assert world.deliver_due() == 1
        [delivery] = world.log(endpoint)
        assert (delivery.status, delivery.attempts, delivery.error_kind) == (DeliveryStatus.PENDING, (), None)
        assert world.reload(endpoint).failing_since is None
        reasons = [each["reason"] for each in logged if each["event"] == "deliveries put back"]
        assert reasons == ["too many open files"]
        world.deliver_due()
        [delivery] = world.log(endpoint)
        assert (delivery.status, len(delivery.attempts)) == (DeliveryStatus.DELIVERED, 1)

    def test_one_that_hangs_is_tried_again(self, world: World, receiver: Destination) -> None:
        receiver.answer = fails(1, Answer(hang=30))
        endpoint = world.endpoint(receiver.url)
        world.end_a_job()
        world.run_for(DAY)
        [delivery] = world.log(endpoint)
        assert [each.error_kind for each in delivery.attempts] == [DeliveryError.TIMED_OUT, None]

    def test_a_secret_that_cannot_be_read_waits_for_its_key(self, world: World, receiver: Destination) -> None:
        endpoint = world.endpoint(receiver.url)
        world.end_a_job()
        keyless = World(world.records, world.post, Cipher([]))
        keyless.deliver_due()
        assert receiver.delivered == []
        assert world.log(endpoint)[0].error_kind is DeliveryError.SECRET_UNREADABLE
        world.run_for(timedelta(minutes=1))
        assert world.log(endpoint)[0].status is DeliveryStatus.DELIVERED


class TestHealth:
    def test_one_dead_for_five_days_is_warned_of_then_disabled(self, world: World, receiver: Destination) -> None:
        receiver.answer = lambda _: BROKEN
        endpoint = world.endpoint(receiver.url)
        for _ in range(7):
            world.end_a_job()
            world.run_for(DAY)
        ended = world.reload(endpoint)
        assert ended.disabled_for is DisabledFor.FAILING
        assert ended.failing_since is not None
        assert ended.disabled_at is not None
        assert timedelta(days=5) <= ended.disabled_at - ended.failing_since < timedelta(days=6)
        row = schema.webhook_endpoints.c
        with world.database.read() as tx:
            warned_at = tx.execute(select(row.warned_at)).scalar_one()
        assert ended.failing_since + 2 * DAY <= warned_at < ended.disabled_at
        statuses = {each.status for each in world.log(endpoint)}
        assert statuses == {DeliveryStatus.FAILED}
        assert world.due() == []

    def test_recover_replays_what_it_missed_once_each(self, world: World, receiver: Destination) -> None:
        receiver.answer = lambda _: BROKEN
        endpoint = world.endpoint(receiver.url)
        begun_at = world.clock()
        for _ in range(7):
            world.end_a_job()
            world.run_for(DAY)
        world.end_a_job(Status.FAILED)
        before, missed = len(receiver.delivered), world.log(endpoint)
        assert len(missed) == 8
        assert len({each.event_id for each in missed}) == 8
        receiver.answer = lambda _: OK
        with world.database.begin() as tx:
            assert store.recover(tx, world.reload(endpoint), begun_at + DAY / 2, world.clock()) == 7
        world.run_for(DAY)
        replayed = receiver.ids()[before:]
        assert sorted(replayed) == sorted(each.event_id for each in missed[:7])
        with world.database.begin() as tx:
            assert store.recover(tx, world.reload(endpoint), begun_at + DAY / 2, world.clock()) == 0
        healthy = world.reload(endpoint)
        assert (healthy.disabled_at, healthy.failing_since) == (None, None)

    def test_gone_disables_at_once(self, world: World, receiver: Destination) -> None:
        receiver.answer = lambda _: Answer(410)
        endpoint = world.endpoint(receiver.url)
        for _ in range(3):
            world.end_a_job()
        [first, *_others] = world.due()
        world.sender.run(first)
        assert world.reload(endpoint).disabled_for is DisabledFor.GONE
        assert [each.error_kind for each in world.log(endpoint)].count(DeliveryError.ENDPOINT_DISABLED) == 2
        assert world.due() == []
        assert len(receiver.delivered) == 1

    def test_one_success_and_the_count_begins_anew(self, world: World, receiver: Destination) -> None:
        receiver.answer = fails(3)
        endpoint = world.endpoint(receiver.url)
        for _ in range(8):
            world.end_a_job()
            world.run_for(DAY)
        assert world.reload(endpoint).disabled_at is None
        assert world.reload(endpoint).failing_since is None

    def test_redeliver_is_one_more_try(self, world: World, receiver: Destination) -> None:
        endpoint = world.endpoint(receiver.url)
        world.end_a_job()
        world.deliver_due()
        [delivery] = world.log(endpoint)
        receiver.answer = lambda _: BROKEN
        for attempts in (2, 3):
            with world.database.begin() as tx:
                assert store.redeliver(tx, delivery.id, world.clock())
            world.run_for(5 * DAY)
            [delivery] = world.log(endpoint)
            assert (delivery.status, len(delivery.attempts)) == (DeliveryStatus.FAILED, attempts)
        assert receiver.ids() == [delivery.event_id] * 3


def test_a_receiver_that_hangs_is_given_one_place_and_one_that_works_ever_more() -> None:
    widths = Widths()

    def places(receiver: str) -> int:
        taken = [receiver for _ in range(MOST_PER_TARGET + 1) if widths.take(receiver)]
        for each in taken:
            widths.give_back(each)
        return len(taken)

    assert places("new") == 2
    for expected in (3, 4, 5):
        widths.learn("good", None)
        assert places("good") == expected
    for _ in range(MOST_PER_TARGET):
        widths.learn("good", None)
    assert places("good") == MOST_PER_TARGET
    widths.learn("good", DeliveryError.HTTP_ERROR)
    assert places("good") == MOST_PER_TARGET
    widths.learn("good", DeliveryError.TIMED_OUT)
    assert places("good") == 1


def test_what_finds_no_place_waits_in_its_order_up_to_a_bound_while_somebody_delivers_there() -> None:
    backlog = Backlog()
    backlog.add("busy", ["first", "second"])
    backlog.add("busy", ["second", "third"])
    assert [backlog.take("busy") for _ in range(4)] == ["first", "second", "third", None]
    assert backlog.take("other") is None
    many = [str(number) for number in range(WAITING_PER_TARGET + 1)]
    backlog.add("busy", many)
    assert [backlog.take("busy") for _ in many] == [*many[:-1], None]
    backlog.add("busy", many)
    backlog.forget("busy")
    assert backlog.take("busy") is None


class TestWhatMayBreak:
    def test_only_what_may_have_been_left_is_looked_for(self, world: World, receiver: Destination) -> None:
        world.endpoint(receiver.url)
        world.end_a_job()
        world.end_a_job()
        first, second = world.due()
        assert world.sender.run(first)
        assert world.sender.run(second)  # sent along with the first
        world.end_a_job()
        receiver.answer = lambda _: BROKEN
        assert not world.sender.run(*world.due())

    def test_a_receiver_that_works_gets_what_else_is_due_without_a_bell(
        self, world: World, receiver: Destination
    ) -> None:
        world.endpoint(receiver.url)
        for _ in range(5):
            world.end_a_job()
        first = world.due()[0]
        world.sender.run(first)
        assert len(set(receiver.ids())) == len(receiver.delivered) == 5

    def test_a_stale_bell_changes_nothing(self, world: World, receiver: Destination) -> None:
        endpoint = world.endpoint(receiver.url)
        world.end_a_job()
        [delivery] = world.log(endpoint)
        for _ in range(3):
            world.sender.run(delivery.id)
        world.sender.run("whd_0")
        assert len(receiver.delivered) == 1

    def test_a_delivery_that_was_rescued_meanwhile_is_not_recorded_twice(
        self, world: World, receiver: Destination
    ) -> None:
        endpoint = world.endpoint(receiver.url)
        world.end_a_job()
        row = schema.webhook_deliveries.c

        def rescued_meanwhile(_: Delivered) -> Answer:
            with world.database.begin() as tx:
                values = {"status": DeliveryStatus.PENDING, "worker_id": None}
                tx.execute(update(schema.webhook_deliveries).where(row.attempts == 1).values(values))
            return OK

        receiver.answer = rescued_meanwhile
        world.deliver_due()  # and then what has come back, as that is due as well
        [delivery] = world.log(endpoint)
        assert (delivery.status, len(delivery.attempts)) == (DeliveryStatus.DELIVERED, 2)
        assert receiver.ids() == [delivery.event_id] * 2

    def test_an_endpoint_erased_while_it_is_sent_to_leaves_nothing(self, world: World, receiver: Destination) -> None:
        endpoint = world.endpoint(receiver.url)
        world.end_a_job()

        def erased_meanwhile(_: Delivered) -> Answer:
            with world.database.begin() as tx:
                store.delete_endpoint(tx, endpoint)
            return OK

        receiver.answer = erased_meanwhile
        assert world.deliver_due() == 1
        with world.database.read() as tx:
            assert tx.execute(select(schema.webhook_deliveries)).all() == []

    def test_only_what_it_wants_to_hear_of(self, world: World, receiver: Destination) -> None:
        world.endpoint(receiver.url, [EventType.FAILED])
        for status in sorted(TERMINAL):
            world.end_a_job(status)
            world.end_a_job(status, background=False)
        world.deliver_due()
        assert [json.loads(each.body)["type"] for each in receiver.delivered] == ["response.failed"]
