"""The hanging targets of one key, however many, delay no other key's deliveries."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import gevent
import pytest

from jobs.lifecycle import Verb
from jobs.store.api_keys import ApiKey
from jobs.store.database import Database
from jobs.store.webhooks.endpoints import Endpoint
from tests.support.hanging import Hanging
from tests.support.records import Records, make_key
from tests.support.waiting import await_until
from tests.support.webhook_endpoint import Destination
from tests.webhooks.posting import poster
from tests.webhooks.world import World
from worker.webhooks.http_post import Resolver

SLOTS = 20
HOSTS = 60


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    with Hanging() as hanging:
        yield hanging


@pytest.fixture
def destination() -> Iterator[Destination]:
    with Destination() as destination:
        yield destination


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    opened = Database(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture
def world(records: Records) -> Iterator[World]:
    world = World(records, poster(seconds=60.0), slots=SLOTS)
    yield world

    def are_all_over() -> bool:
        world.sender.abort_all()  # repeatedly: a delivery may begin just after
        return not world.sender

    await_until(are_all_over, 20, "the deliveries never ended")


def hook(world: World, key: ApiKey, *urls: str) -> list[Endpoint]:
    return [world.endpoint(url, key=key) for url in urls]


def end_one_of(world: World, key: ApiKey) -> None:
    world.records.move(Verb.CANCEL, world.records.submit_job(key))


def deliver_all_due(world: World) -> None:
    for delivery_id in world.due():
        world.sender.deliver(delivery_id)


def test_many_hanging_hosts_of_one_key_leave_slots_to_the_others(
    world: World, hanging: Hanging, destination: Destination
) -> None:
    greedy, other = world.records.key, make_key(world.database, "other")
    hook(world, greedy, *hanging.urls(HOSTS))
    hook(world, other, destination.url)
    end_one_of(world, greedy)
    deliver_all_due(world)
    await_until(lambda: len(hanging.held) >= SLOTS * 3 // 4, 20, "the hanging targets got no connections")
    started_at = time.monotonic()
    for _ in range(10):
        end_one_of(world, other)
    deliver_all_due(world)
    destination.await_count(10, 20)
    assert time.monotonic() - started_at < 10
    assert len(hanging.held) == SLOTS * 3 // 4  # the most that one key may hold, while it is alone


def test_a_key_that_was_turned_away_goes_on_as_soon_as_one_of_its_slots_is_free(world: World, hanging: Hanging) -> None:
    hook(world, world.records.key, *hanging.urls(HOSTS))
    end_one_of(world, world.records.key)
    asked_for_more = threading.Event()
    world.sender._on_end = asked_for_more.set
    deliver_all_due(world)
    most = SLOTS * 3 // 4
    await_until(lambda: len(hanging.held) == most and len(world.sender) == most, 20, "none was turned away")
    asked_for_more.clear()
    hanging.held[0].sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert asked_for_more.wait(20)
    deliver_all_due(world)
    await_until(lambda: len(hanging.held) == most + 1, 20, "no further delivery began")


class TestNames:
    @pytest.fixture
    def hung(self) -> Iterator[threading.Event]:
        release = threading.Event()
        yield release
        release.set()

    def test_many_hanging_names_of_one_key_leave_look_ups_to_the_others(self, hung: threading.Event) -> None:
        """A look-up cannot be aborted, and its thread counts for its key until the resolver returns."""
        asked: list[str] = []

        def look_up(host: str, port: int, *_: Any) -> list[tuple[Any, ...]]:
            asked.append(host)
            if host.startswith("hangs"):
                hung.wait(60)
            return [(0, 0, 0, "", ("93.184.215.14", port))]

        resolver = Resolver(16, look_up)

        def fail(number: int) -> None:
            with suppress(TimeoutError):
                resolver.for_key("greedy")(f"hangs{number}.example.com", 443, 0.5)

        for _ in range(2):  # a caller that has timed out has not got its thread back
            gevent.joinall([gevent.spawn(fail, number) for number in range(HOSTS)], timeout=20)
            started_at = time.monotonic()
            found = resolver.for_key("other")("good.example.com", 443, 5.0)
            assert found == [ip_address("93.184.215.14")]
            assert time.monotonic() - started_at < 2
            assert len([host for host in asked if host.startswith("hangs")]) == 12
        hung.set()
        again = [gevent.spawn(resolver.for_key("greedy"), f"later{number}", 443, 20.0) for number in range(HOSTS)]
        assert len(gevent.joinall(again, timeout=20)) == HOSTS
        assert all(each.value == found for each in again)


def test_keys_are_enqueued_in_rounds_however_many_targets_they_have(world: World, hanging: Hanging) -> None:
    """Messages are enqueued fairly too: else those of one key would stand before all others."""
    keys = [world.records.key, *(make_key(world.database, name) for name in "bc")]
    owners: dict[str, str] = {}
    for number, key in enumerate(keys):
        hooks = hook(world, key, *hanging.urls(HOSTS if number == 0 else 2))
        end_one_of(world, key)
        world.clock.advance(timedelta(seconds=1))
        owners |= {each.id: key.id for hook_ in hooks for each in world.log(hook_)}
    assert [owners[each] for each in world.due()[:6]] == [key.id for key in keys] * 2
