"""Credentials of a tenant's tools reach only the provider, even if it repeats everything that it is sent."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from jobs.encryption import generate_key
from jobs.store import schema
from jobs.store.database import Database
from tests.support.leaky import LeakyProvider, leaky_provider
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

TOKEN = "tok-4711-of-the-tenant"
HEADER = "key-0815-of-the-tenant"
USERINFO = "me:pw-1234-of-the-tenant"
OLD_KEY, NEW_KEY = generate_key(), generate_key()
TOOL = {
    "type": "mcp",
    "server_label": "mine",
    "server_url": f"https://{USERINFO}@mcp.example/sse",
    "authorization": TOKEN,
    "headers": {"X-Key": f"Bearer {HEADER}", "X-Other": "x"},
}
SHOWN = {
    **TOOL,
    "server_url": "https://***@mcp.example/sse",
    "authorization": "***",
    "headers": {"X-Key": "***", "X-Other": "***"},
}
SEARCHED = {"type": "tool_search_output", "call_id": "call_1", "tools": [TOOL]}
ENDED = {"completed", "incomplete", "failed", "cancelled"}


@pytest.fixture(scope="module")
def provider() -> Iterator[LeakyProvider]:
    with leaky_provider() as provider:
        yield provider


@pytest.fixture(scope="module", params=["plain", "stream"])
def stack(
    request: pytest.FixtureRequest,
    database_url_of_module: str,
    provider: LeakyProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    environment = {
        "BACKBURNER_ENCRYPTION_KEYS": OLD_KEY,
        "BACKBURNER_PROVIDER_BASE_URL": provider.url,
        "BACKBURNER_PROVIDER_TRANSPORT": request.param,
        "BACKBURNER_PROVIDER_DIALECT": "openai",
        "BACKBURNER_LOG_LEVEL": "debug",
    }
    directory = tmp_path_factory.mktemp("credentials")
    with ValkeyServer() as valkey, Stack(database_url_of_module, valkey.url, directory, environment) as stack:
        yield stack


def run(stack: Stack, **fields: Any) -> dict[str, Any]:
    return await_end(stack, stack.submit("Hello", **fields))


def await_end(stack: Stack, job_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        body = stack.get(job_id)
        return body if body["status"] in ENDED else None

    return await_until(look, 20, lambda: f"{job_id} never ended\n{stack.logs()}")


def kept(stack: Stack, job_id: str) -> str:
    """Every column of every row of a job, as text."""
    database = Database(stack.settings()["BACKBURNER_DATABASE_URL"])
    try:
        with database.read() as tx:
            of_job = [each for each in schema.metadata.sorted_tables if "job_id" in each.c]
            rows = [row for table in of_job for row in tx.execute(select(table).where(table.c.job_id == job_id))]
            rows += tx.execute(select(schema.jobs).where(schema.jobs.c.id == job_id))
    finally:
        database.close()
    assert rows
    return repr(rows)


def assert_hidden(text: str) -> None:
    assert [secret for secret in (TOKEN, HEADER, "pw-1234") if secret in text] == []


def test_credentials_of_tools_reach_the_provider_alone(stack: Stack, provider: LeakyProvider) -> None:
    """[18.10]"""
    asked = [SEARCHED, {"role": "user", "content": "Hello"}]
    body = run(stack, tools=[TOOL], input=asked)
    assert provider.bodies[-1]["tools"] == [TOOL]
    assert provider.bodies[-1]["input"][0] == SEARCHED
    assert body["tools"] == [SHOWN]
    assert (body["status"], body["output"][0]["content"][0]["text"][:6]) == ("completed", "Seen: ")
    with stack.http() as http:
        listed = http.get("/responses").text
        items = http.get(f"/responses/{body['id']}/input_items").text
        attempts = http.get(f"/responses/{body['id']}/attempts").text
    for shown in (json.dumps(body), listed, items, attempts, kept(stack, body["id"]), stack.logs()):
        assert_hidden(shown)
    follow_up = run(stack, previous_response_id=body["id"])
    assert provider.bodies[-1]["input"][0] == SEARCHED, "what a follow-up rests upon is whole as well"
    assert_hidden(json.dumps(follow_up))


def test_no_event_of_a_stream_shows_them(stack: Stack, provider: LeakyProvider) -> None:
    """[18.10]"""
    with stack.http() as http:
        fields = {"model": "openai/o3-pro", "input": "Hello", "stream": True, "tools": [TOOL]}
        events = http.post("/responses", json=fields).text
    assert provider.bodies[-1]["tools"] == [TOOL]
    assert "response.completed" in events
    assert "Seen: " in events
    assert_hidden(events)


def test_an_error_that_repeats_them_does_not_show_them(stack: Stack, provider: LeakyProvider) -> None:
    """[18.10]"""
    provider.refuses = True
    try:
        body = run(stack, tools=[TOOL])
    finally:
        provider.refuses = False
    assert (body["status"], body["error"]["message"][:15]) == ("failed", "Cannot connect:")
    for shown in (json.dumps(body), json.dumps(stack.attempts(body["id"])), kept(stack, body["id"]), stack.logs()):
        assert_hidden(shown)


@pytest.mark.long
def test_they_outlive_a_new_key_and_fail_plainly_without_the_old_one(
    database_url: str, valkey: ValkeyServer, tmp_path: Path, provider: LeakyProvider
) -> None:
    """[18.10]"""
    environment = {"BACKBURNER_ENCRYPTION_KEYS": OLD_KEY, "BACKBURNER_PROVIDER_BASE_URL": provider.url}
    with Stack(database_url, valkey.url, tmp_path, environment) as stack:
        stack.worker_processes[0].stop()
        rotated, unreadable = (stack.submit("Hello", tools=[TOOL]) for _ in range(2))
        database = Database(database_url)
        with database.begin() as tx:
            row = schema.requests.c
            tx.execute(
                update(schema.requests).where(row.job_id == unreadable).values(credentials="gAAAA-of-another-key")
            )
        database.close()
        stack.environment["BACKBURNER_ENCRYPTION_KEYS"] = f"{NEW_KEY},{OLD_KEY}"
        stack.start_worker()
        assert await_end(stack, rotated)["status"] == "completed"
        assert provider.bodies[-1]["tools"][0]["authorization"] == TOKEN
        failed = await_end(stack, unreadable)
        assert (failed["status"], failed["error"]["code"]) == ("failed", "provider_rejected")
        assert "BACKBURNER_ENCRYPTION_KEYS" in failed["error"]["message"]
        [attempt] = stack.attempts(unreadable)
        assert attempt["billed"] == "no"
