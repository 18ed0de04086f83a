"""Every call is shown as an attempt. Its usage and cost are counted once, by day, model and key."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, update

from jobs.errors import ErrorKind, Failure
from jobs.store import schema
from jobs.store.attempt_bodies import MOST_BYTES, bodies_of
from tests.api.world import (
    COST_MICROUSD,
    MODEL,
    USAGE,
    FakeWorker,
    Json,
    Server,
    Tenant,
    a_tenant,
    assert_error,
    usage_json,
)

LIMITED = Failure(ErrorKind.RATE_LIMITED, "Slow down.", 429)
DAY = 86_400


def attempts(tenant: Tenant, job_id: str) -> Json:
    answer = tenant.http.get(f"/v1/responses/{job_id}/attempts")
    assert answer.status_code == 200, answer.text
    page: Json = answer.json()
    return page


def usage(tenant: Tenant, **query: float) -> list[Json]:
    answer = tenant.http.get("/v1/usage", params=query)
    assert answer.status_code == 200, answer.text
    page: Json = answer.json()
    assert (page["object"], page["has_more"]) == ("list", False)
    rows: list[Json] = page["data"]
    return rows


def book(
    server: Server,
    tenant: Tenant,
    started_at: datetime,
    model: str = MODEL,
    cost: int | None = 500,
    *,
    billed: str = "no",
) -> None:
    """Record a call at a past moment."""
    row = {
        "job_id": f"resp_{started_at.timestamp():.6f}",
        "number": 1,
        "api_key_id": tenant.id,
        "model": model,
        "worker_id": "wrk_long_gone",
        "started_at": started_at,
        "billed": billed,
        "ended_at": started_at,
        "outcome": "completed",
        "truncation": "disabled",
        "cost_microusd": cost,
        "cost_source": "provider" if cost is not None else None,
    }
    with server.database.begin() as tx:
        tx.execute(insert(schema.attempts).values(row))


def test_without_a_call_there_is_no_attempt(tenant: Tenant) -> None:
    expected: Json = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert attempts(tenant, tenant.submit()["id"]) == expected


def test_each_attempt_shows_all_details_of_its_call(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.reschedule(job_id, LIMITED, timedelta(0))
    worker.complete(job_id)
    page = attempts(tenant, job_id)
    failed, done = page["data"]
    assert (page["first_id"], page["last_id"]) == (f"{job_id}:1", f"{job_id}:2")
    for each in (failed, done):
        assert isinstance(each.pop("started_at"), float)
        assert isinstance(each.pop("ended_at"), float)
    assert failed == {
        "object": "response.attempt",
        "id": f"{job_id}:1",
        "number": 1,
        "outcome": "failed",
        "http_status": 429,
        "error": {"kind": "rate_limited", "message": "Slow down."},
        "provider_request_id": None,
        "provider_response_id": None,
        "resumes": None,
        "truncation": "disabled",
        "may_have_been_billed": False,
        "billed": "no",
        "usage": None,
        "cost_usd": None,
        "cost_source": None,
    }
    assert done == {
        "object": "response.attempt",
        "id": f"{job_id}:2",
        "number": 2,
        "outcome": "completed",
        "http_status": 200,
        "error": None,
        "provider_request_id": "req_provider",
        "provider_response_id": "resp_provider",
        "resumes": None,
        "truncation": "disabled",
        "may_have_been_billed": True,
        "billed": "yes",
        "usage": usage_json(),
        "cost_usd": COST_MICROUSD / 1e6,
        "cost_source": "provider",
    }


def test_an_attempt_under_way_may_have_been_billed(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.claim(job_id)
    (running,) = attempts(tenant, job_id)["data"]
    assert (running["ended_at"], running["outcome"], running["http_status"]) == (None, None, None)
    assert (running["may_have_been_billed"], running["billed"]) == (True, "unknown")


def test_usage_is_empty_before_the_first_call(tenant: Tenant) -> None:
    tenant.submit()
    assert usage(tenant) == []


def test_usage_counts_every_call_and_its_tokens_once(tenant: Tenant, worker: FakeWorker) -> None:
    first, second, running = (tenant.submit()["id"] for _ in range(3))
    worker.reschedule(first, LIMITED, timedelta(0))
    worker.complete(first)
    worker.complete(second)
    worker.claim(running)
    (row,) = usage(tenant)
    day = datetime.now(UTC).date().isoformat()
    name = row.pop("api_key_name")
    assert name.startswith("tenant ")
    assert row == {
        "object": "usage.day",
        "id": f"{day}:{MODEL}:{tenant.id}",
        "day": day,
        "model": MODEL,
        "api_key_id": tenant.id,
        "calls": 4,
        "input_tokens": 2 * USAGE.input_tokens,
        "output_tokens": 2 * USAGE.output_tokens,
        "total_tokens": 2 * USAGE.total_tokens,
        "cached_tokens": 2 * USAGE.cached_tokens,
        "reasoning_tokens": 2 * USAGE.reasoning_tokens,
        "cost_usd": 2 * COST_MICROUSD / 1e6,
        "calls_of_unknown_cost": 0,
    }


def test_calls_of_unknown_cost_are_counted_and_are_not_free(server: Server, tenant: Tenant) -> None:
    now = datetime.now(UTC)
    calls = [("a", 500), ("a", None), ("b", None), ("b", None), ("c", 0), ("c", 0)]
    for number, (model, cost) in enumerate(calls):
        book(server, tenant, now - timedelta(seconds=number), model, cost, billed="no" if cost == 0 else "yes")
    shown = {row["model"]: (row["cost_usd"], row["calls_of_unknown_cost"]) for row in usage(tenant)}
    assert shown == {"a": (0.0005, 1), "b": (None, 2), "c": (0, 0)}


def test_bodies_of_failed_calls_are_shown_to_their_owner_until_they_are_erased(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    job_id = tenant.submit()["id"]
    unreadable = Failure(ErrorKind.MALFORMED_ANSWER, "No JSON.", 200)
    page = "<html>é</html>".encode()
    for raw in (page, b"\xff" + b"x" * MOST_BYTES):
        worker.reschedule(job_id, unreadable, timedelta(0), raw=raw)
    worker.complete(job_id)
    path = f"/v1/responses/{job_id}/attempts"
    shown = tenant.http.get(path, params={"include": "body"}).json()["data"]
    assert [each["body"] for each in shown] == [page.decode(), "\ufffd" + "x" * (MOST_BYTES - 1), None]
    [second] = tenant.http.get(path, params={"include": "body", "after": f"{job_id}:1", "limit": 1}).json()["data"]
    assert second == shown[1]
    assert all("body" not in each for each in attempts(tenant, job_id)["data"])
    assert_error(tenant.http.get(path, params={"include": "all"}), 400, code="invalid_value", param="include")
    with a_tenant(server) as stranger:
        assert stranger.http.get(path, params={"include": "body"}).status_code == 404
    tenant.http.delete(f"/v1/responses/{job_id}")
    with server.database.read() as tx:
        assert bodies_of(tx, job_id, 1, 3) == {}


def test_the_call_of_a_cancelled_job_is_counted_too(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.claim(job_id)
    tenant.http.post(f"/v1/responses/{job_id}/cancel")
    assert usage(tenant)[0]["calls"] == 1


def test_days_are_utc_and_the_latest_comes_first(server: Server, tenant: Tenant) -> None:
    midnight = datetime(2026, 5, 4, tzinfo=UTC)
    for seconds, model in ((-1, MODEL), (0, MODEL), (1, "acme/other"), (DAY - 1, MODEL), (DAY, MODEL)):
        book(server, tenant, midnight + timedelta(seconds=seconds), model)
    rows = usage(tenant, start=midnight.timestamp() - DAY, end=midnight.timestamp() + 2 * DAY)
    assert [(row["day"], row["model"], row["calls"]) for row in rows] == [
        ("2026-05-05", MODEL, 1),
        ("2026-05-04", "acme/other", 1),
        ("2026-05-04", MODEL, 2),
        ("2026-05-03", MODEL, 1),
    ]
    assert rows[2]["cost_usd"] == 0.001
    assert len({row["id"] for row in rows}) == 4


def test_the_time_range_includes_its_start_and_excludes_its_end(server: Server, tenant: Tenant) -> None:
    noon = datetime(2026, 5, 4, 12, tzinfo=UTC)
    book(server, tenant, noon)
    stamp = noon.timestamp()
    assert len(usage(tenant, start=stamp, end=stamp + 1)) == 1
    assert usage(tenant, start=stamp - 1, end=stamp) == []
    assert usage(tenant, start=stamp + 0.001, end=stamp + 1) == []


def test_usage_covers_thirty_days_by_default(server: Server, tenant: Tenant) -> None:
    now = datetime.now(UTC)
    book(server, tenant, now - timedelta(days=31))
    book(server, tenant, now - timedelta(days=29), cost=None)
    assert [row["cost_usd"] for row in usage(tenant)] == [0]
    assert len(usage(tenant, start=0)) == 2
    assert len(usage(tenant, end=(now - timedelta(days=30)).timestamp())) == 1


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"start": "x"}, "start"),
        ({"end": "nan"}, "end"),
        ({"start": "-1"}, "start"),
        ({"end": "1e12"}, "end"),
        ({"start": "20", "end": "10"}, "start"),
        ({"start": "10", "end": "10"}, "start"),
        ({"start": "3999999999"}, "start"),
        ({"end": "\0"}, "end"),
    ],
)
def test_an_invalid_time_range_is_refused(tenant: Tenant, query: dict[str, str], param: str) -> None:
    assert_error(tenant.http.get("/v1/usage", params=query), 400, code="invalid_value", param=param)


def test_a_lost_call_is_shown_as_possibly_billed(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.claim(job_id)
    lost = {"ended_at": datetime.now(UTC), "outcome": "lost", "billed": "unknown", "error_kind": "lost"}
    with server.database.begin() as tx:
        tx.execute(update(schema.attempts).where(schema.attempts.c.job_id == job_id).values(lost))
    (attempt,) = attempts(tenant, job_id)["data"]
    assert (attempt["outcome"], attempt["may_have_been_billed"]) == ("lost", True)
    assert attempt["error"] == {"kind": "lost", "message": None}
