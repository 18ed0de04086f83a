"""Lists of large rows: a page has a size limit, leaves out large fields, and is read as fast as it is sent."""

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from openai import OpenAI

import api.lists
import api.paging
from api.paging import LISTED_BYTES, LISTS_PER_KEY, PAGE_BYTES
from jobs.errors import ErrorKind, Failure
from jobs.store.api_keys import revoke_key
from tests.api.test_list import page_through
from tests.api.test_long_streams import await_stillness
from tests.api.world import FakeWorker, Json, Server, Tenant, assert_error
from tests.support.waiting import await_until

LARGE = "x" * 5_000_000


@pytest.fixture
def large(tenant: Tenant, worker: FakeWorker) -> list[str]:
    """Responses so large that a page holds three."""
    ids = [tenant.submit()["id"] for _ in range(7)]
    for each in ids:
        worker.complete(each, LARGE)
    return ids[::-1]


@contextmanager
def stalled(server: Server, tenant: Tenant, path: str = "/v1/responses") -> Iterator[socket.socket]:
    """A client that requests a list and reads nothing of the answer."""
    head = f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\nconnection: close\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(head.encode())
        yield connection


def lists_of(server: Server, tenant: Tenant) -> int:
    limit = server.state.lists._limits.get(tenant.id)
    return limit.users if limit else 0


def body_of(connection: socket.socket) -> Json:
    raw = b""
    while piece := connection.recv(1 << 20):
        raw += piece
    _head, _, rest = raw.partition(b"\r\n\r\n")
    body = b""
    while rest:
        length, _, rest = rest.partition(b"\r\n")
        body += rest[: int(length, 16)]
        rest = rest[int(length, 16) + 2 :]
    page: Json = json.loads(body)
    return page


def test_a_page_ends_at_its_size_limit_and_the_pages_hold_everything_once(tenant: Tenant, large: list[str]) -> None:
    answer = tenant.http.get("/v1/responses", params={"limit": 100})
    assert len(answer.content) < PAGE_BYTES + 1000
    page = answer.json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (large[:3], True)
    assert page["last_id"] == large[2]
    assert page_through(tenant, 100) == large
    assert page_through(tenant, 2) == large
    assert page_through(tenant, 100, order="asc") == large[::-1]
    assert page["data"][0] == tenant.get(large[0]), "the answer is not complete"


def test_a_response_larger_than_a_page_is_a_page_of_its_own(
    tenant: Tenant, large: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.paging, "PAGE_BYTES", 1000)
    assert tenant.ids() == large[:1]
    assert page_through(tenant, 100) == large


def test_a_list_leaves_out_large_settings_and_names_them(tenant: Tenant, sdk: OpenAI) -> None:
    tool = {"type": "function", "name": "f", "parameters": {"description": "t" * LISTED_BYTES}}
    own = {"instructions": "i" * (LISTED_BYTES + 1), "tools": [tool], "temperature": 0.5, "metadata": {"a": "b"}}
    job_id = tenant.submit(**own)["id"]
    small = tenant.submit(instructions="i" * LISTED_BYTES)["id"]
    listed_small, listed = tenant.page()["data"]
    assert listed_small == tenant.get(small)
    assert sorted(listed["backburner"].pop("left_out")) == ["instructions", "tools"]
    whole = tenant.get(job_id)
    assert listed == whole | {"instructions": None, "tools": []}
    assert whole["instructions"] == own["instructions"]
    assert sdk.responses.retrieve(job_id).instructions == own["instructions"]
    assert len(json.dumps(listed)) < 4000


@pytest.mark.long
@pytest.mark.one_database
def test_nothing_more_is_read_for_a_reader_that_stalls(
    server: Server, tenant: Tenant, large: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []
    read = server.state.lists.read

    async def counting(work: Callable[[], Any]) -> Any:
        reads.append(work)
        return await read(work)

    monkeypatch.setattr(server.state.lists, "read", counting)
    monkeypatch.setattr(api.paging, "PAGE_BYTES", 1 << 30)
    with stalled(server, tenant) as connection:
        await_until(lambda: len(reads) >= 2, 5, "nothing was read")
        assert await_stillness(lambda: len(reads)) <= 3, "more was read than the ids and a row or two"
        page = body_of(connection)
    assert [each["id"] for each in page["data"]] == large
    assert page["has_more"] is False


def test_concurrent_lists_of_one_key_are_limited_and_do_not_delay_other_keys(
    server: Server, tenant: Tenant, other: Tenant, large: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.paging, "MAX_WAIT_SECONDS", 0.3)
    with ExitStack() as opened:
        for _ in range(LISTS_PER_KEY):
            opened.enter_context(stalled(server, tenant))
        await_until(lambda: lists_of(server, tenant) == LISTS_PER_KEY, 5, "they are not read")
        for path in ("", f"/{large[0]}/attempts", f"/{large[0]}/input_items"):
            answer = tenant.http.get(f"/v1/responses{path}")
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "rate_limit_exceeded"
            assert answer.headers["retry-after"] == "1"
            assert "x-should-retry" not in answer.headers, "a repeated read costs nothing"
        assert tenant.get(large[0])["status"] == "completed"
        assert other.page()["data"] == []
        monkeypatch.setattr(api.paging, "MAX_WAIT_SECONDS", 10.0)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(tenant.ids, limit=1)
            await_until(lambda: lists_of(server, tenant) == LISTS_PER_KEY + 1, 5, "it does not wait")
            opened.close()
            assert waiting.result(10) == large[:1]
    await_until(lambda: not lists_of(server, tenant), 5, "an ended list still counts")


def test_a_list_stops_when_its_key_is_revoked(server: Server, tenant: Tenant, large: list[str]) -> None:
    with stalled(server, tenant) as connection:
        await_until(lambda: lists_of(server, tenant), 5, "nothing is read")
        await_stillness(lambda: lists_of(server, tenant))
        with server.database.begin() as tx:
            revoke_key(tx, tenant.id, datetime.now(UTC))
        page = body_of(connection)
    shown = [each["id"] for each in page["data"]]
    assert shown == large[: len(shown)]
    assert len(shown) <= 2
    assert page["has_more"] is True


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_input_items_have_the_same_size_limit(tenant: Tenant, worker: FakeWorker, order: str) -> None:
    turns: list[str] = []
    for _ in range(3):
        follows = {"previous_response_id": turns[-1]} if turns else {}
        turns.append(tenant.submit([{"role": "user", "content": part} for part in (LARGE, "y")], **follows)["id"])
        worker.complete(turns[-1])
    path = f"/v1/responses/{turns[-1]}/input_items"
    query: Json = {"order": order, "limit": 100}
    page = tenant.http.get(path, params=query).json()
    assert page["has_more"] is False
    whole = [each["id"] for each in page["data"]]
    assert len(whole) == 8
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(api.lists, "PAGE_BYTES", 6_000_000)
        patched.setattr(api.paging, "PAGE_BYTES", 6_000_000)
        found: list[str] = []
        while True:
            page = tenant.http.get(path, params=query | ({"after": found[-1]} if found else {})).json()
            found += [each["id"] for each in page["data"]]
            if not page["has_more"]:
                break
        assert found == whole
        page = tenant.http.get(path, params=query | {"before": whole[-1]}).json()
        before = [each["id"] for each in page["data"]]
        assert page["has_more"] is True
        assert before == whole[-1 - len(before) : -1]


def test_attempts_come_in_pages(tenant: Tenant, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.lists, "ATTEMPTS_AT_ONCE", 2)
    job_id = tenant.submit(max_attempts=8)["id"]
    for _ in range(5):
        worker.reschedule(job_id, Failure(ErrorKind.SERVER_ERROR, "e" * 1000, 500), timedelta())
    path = f"/v1/responses/{job_id}/attempts"
    page = tenant.http.get(path).json()
    assert ([each["number"] for each in page["data"]], page["has_more"]) == ([1, 2, 3, 4, 5], False)
    page = tenant.http.get(path, params={"limit": 3}).json()
    assert ([each["number"] for each in page["data"]], page["has_more"]) == ([1, 2, 3], True)
    page = tenant.http.get(path, params={"limit": 3, "after": page["last_id"]}).json()
    assert ([each["number"] for each in page["data"]], page["has_more"]) == ([4, 5], False)
    monkeypatch.setattr(api.paging, "PAGE_BYTES", 3000)
    page = tenant.http.get(path).json()
    assert ([each["number"] for each in page["data"]], page["has_more"]) == ([1, 2], True)
    for wrong in ("3", f"{job_id}:x", f"{job_id}:99999999999", "resp_other:3"):
        answer = tenant.http.get(path, params={"after": wrong})
        assert_error(answer, 400, code="invalid_value", param="after")
