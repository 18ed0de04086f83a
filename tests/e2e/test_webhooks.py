"""Webhooks end to end: the official SDK registers and unwraps, workers under gevent deliver."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI

from jobs.encryption import generate_key
from tests.e2e import trip
from tests.support.stack import API_KEY, ROOT, Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until
from tests.support.webhook_endpoint import OK, Answer, Destination

pytestmark = pytest.mark.one_database

ALL: Any = ["response.completed", "response.failed", "response.cancelled", "response.incomplete"]
OPENED = {"BACKBURNER_WEBHOOK_ALLOW_HTTP": "true", "BACKBURNER_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8,::1/128"}


@pytest.fixture(scope="module")
def stack(
    database_url_of_module: str, valkey_url_of_module: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    environment = {**OPENED, "BACKBURNER_ENCRYPTION_KEYS": generate_key()}
    directory = tmp_path_factory.mktemp("webhooks")
    with Stack(database_url_of_module, valkey_url_of_module, directory, environment) as stack:
        yield stack


@pytest.fixture
def receiver() -> Iterator[Destination]:
    with Destination() as receiver:
        yield receiver


@pytest.fixture
def client(stack: Stack) -> Iterator[OpenAI]:
    with stack.openai(max_retries=0) as client:
        yield client
        for each in client.webhooks.list(limit=100).data:
            client.webhooks.delete(each.id)


def deliveries(stack: Stack, endpoint_id: str) -> list[dict[str, Any]]:
    with stack.http() as http:
        answer = http.get(f"/webhook_endpoints/{endpoint_id}/deliveries", params={"limit": 100})
    data: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
    return data


def test_every_end_arrives_signed_within_a_second_or_two(stack: Stack, client: OpenAI, receiver: Destination) -> None:
    endpoint = client.webhooks.create(name="mine", url=receiver.url, event_types=ALL)
    completed = trip.create(stack, "[[sim: full]] Hello")
    incomplete = trip.create(stack, "[[sim: incomplete]] Hello")
    failed = trip.create(stack, "[[sim: 400]] Hello")
    cancelled = trip.create(stack, "[[sim: full delay=60]] Hello")
    client.responses.cancel(cancelled.id)
    came = receiver.await_count(4)
    events = [client.webhooks.unwrap(each.body, dict(each.headers), secret=endpoint.signing_secret) for each in came]
    reported = {event.data.id: event.type for event in events}  # type: ignore[union-attr]  # events of other kinds
    assert reported == {
        completed.id: "response.completed",
        incomplete.id: "response.incomplete",
        failed.id: "response.failed",
        cancelled.id: "response.cancelled",
    }
    for each, event in zip(came, events, strict=True):
        assert each.at - event.created_at < 3.5  # of which up to one is the whole seconds that are told
    log = await_until(
        lambda: [each for each in deliveries(stack, endpoint.id) if each["status"] == "delivered"][3:], 5, "no log"
    )
    assert log
    assert len(receiver.delivered) == 4


def test_the_sdks_test_tells_what_the_endpoint_answered(client: OpenAI, receiver: Destination) -> None:
    endpoint = client.webhooks.create(name="mine", url=receiver.url, event_types=ALL)
    result = client.webhooks.test(endpoint.id, event_type="response.failed")
    assert (result.status_code, result.event_type, result.webhook_endpoint_id) == (200, "response.failed", endpoint.id)
    [came] = receiver.delivered
    event = client.webhooks.unwrap(came.body, dict(came.headers), secret=endpoint.signing_secret)
    assert event.type == "response.failed"
    receiver.answer = lambda _: Answer(418, body=b"a secret of the receiver's")
    assert client.webhooks.test(endpoint.id, event_type="response.failed").status_code == 418
    client.webhooks.update(endpoint.id, url="http://127.0.0.1:1/")
    with pytest.raises(BadRequestError, match="unreachable"):
        client.webhooks.test(endpoint.id, event_type="response.failed")


def test_a_request_names_its_own_receiver(stack: Stack, client: OpenAI, receiver: Destination) -> None:
    secret = "whsec_b25lIHNlY3JldCBvZiBteSBvd24="  # "one secret of my own"
    webhook = {"url": receiver.url, "secret": secret, "events": ["response.completed"]}
    reported = trip.run(stack, "[[sim: full]] Hello", extra_body={"webhook": webhook})
    trip.run(stack, "[[sim: 400]] Hello", extra_body={"webhook": webhook})
    [came] = receiver.await_count(1)
    event = client.webhooks.unwrap(came.body, dict(came.headers), secret=secret)
    assert (event.type, event.data.id) == ("response.completed", reported.id)  # type: ignore[union-attr]
    unsigned = trip.run(stack, "[[sim: full]] Hello", extra_body={"webhook": {"url": receiver.url}})
    came = receiver.await_count(2)[-1]
    assert json.loads(came.body)["data"]["id"] == unsigned.id
    assert "webhook-signature" not in came.headers


def test_receivers_that_hang_delay_neither_calls_nor_the_others(
    stack: Stack, client: OpenAI, receiver: Destination
) -> None:
    with Destination(lambda _: Answer(hang=60)) as hanging:
        client.webhooks.create(name="hangs", url=hanging.url, event_types=ALL)
        by_name = receiver.url.replace("127.0.0.1", "localhost")
        client.webhooks.create(name="works", url=by_name, event_types=ALL)
        started_at = datetime.now(UTC)
        for number in range(20):
            trip.create(stack, f"[[sim: full]] Hello {number}")
        receiver.await_count(20)
        assert datetime.now(UTC) - started_at < timedelta(seconds=10)
        assert 1 <= len(hanging.delivered) <= 4


@pytest.mark.long
def test_what_failed_is_tried_again_and_the_command_line_shows_it(
    stack: Stack, client: OpenAI, receiver: Destination
) -> None:
    receiver.answer = lambda _: OK if len(receiver.delivered) > 1 else Answer(500)
    made = json.loads(command(stack, "create", receiver.url, "--name", "shell", "--json"))
    trip.run(stack, "[[sim: full]] Hello")
    receiver.await_count(2)
    [delivery] = await_until(
        lambda: [each for each in deliveries(stack, made["id"]) if each["status"] == "delivered"], 5, "not delivered"
    )
    first, second = delivery["attempts"]
    assert (first["status_code"], first["error"]) == (500, "http_error")
    assert (second["status_code"], second["error"]) == (200, None)
    assert 5 <= second["started_at"] - first["started_at"] < 9
    assert "delivered" in command(stack, "deliveries", made["id"])
    assert "HTTP 200" in command(stack, "test", made["id"])
    command(stack, "redeliver", delivery["id"])
    receiver.await_count(4)
    assert "0 deliveries" in command(stack, "recover", made["id"], "--since", "1h")
    assert command(stack, "rotate", made["id"]).startswith("whsec_")
    assert "shell" in command(stack, "list")
    assert "deleted" in command(stack, "delete", made["id"])


def test_a_flush_of_the_broker_is_harmless(
    stack: Stack, client: OpenAI, receiver: Destination, valkey_url_of_module: str
) -> None:
    client.webhooks.create(name="works", url=receiver.url, event_types=ALL)
    ids = [trip.create(stack, "[[sim: full]] Hello").id for _ in range(10)]
    with ValkeyServer.client_of(valkey_url_of_module) as redis:
        redis.flushall()
    receiver.await_count(10, 30)
    assert {json.loads(each.body)["data"]["id"] for each in receiver.delivered} == set(ids)


def test_metrics_show_it(stack: Stack) -> None:
    text = httpx.get(f"{stack.url}/metrics").text
    assert 'backburner_webhook_ended{status="delivered"}' in text
    assert "backburner_webhook_oldest_seconds" in text
    assert "backburner_webhook_endpoints_disabled 0.0" in text


def command(stack: Stack, *arguments: str) -> str:
    environment = {
        "PATH": str(Path(sys.executable).parent),
        "BACKBURNER_BASE_URL": stack.base_url,
        "BACKBURNER_API_KEY": API_KEY,
    }
    ran = subprocess.run(
        [sys.executable, "-m", "cli.main", "webhooks", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
