"""The provider's other routes: models, request log, balance."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.simulator.provider import Provider

DAY = {"period": "1d"}


def test_models_are_listed_without_a_key(provider: Provider) -> None:
    answer = provider.http.get("/v1/models", headers={"authorization": ""})
    (model,) = answer.json()["data"]
    assert answer.json()["object"] == "list"
    assert (model["id"], model["shutdown_date"]) == ("openai/o3-pro", "2026-12-11")
    assert "o3-pro" in model["aliases"]
    assert not {"pricing", "capabilities", "modalities"} & model.keys()


def test_models_are_filtered_and_expanded(provider: Provider) -> None:
    wanted = {"id": "O3-Pro,openai/other", "include": "pricing,nonsense"}
    (model,) = provider.http.get("/v1/models", params=wanted).json()["data"]
    prices = {unit["measure"]: (unit["price"], unit["per"]) for unit in model["pricing"]["units"]}
    assert prices == {"input": (27.508, 1_000_000), "output": (110.032, 1_000_000)}
    assert "capabilities" not in model
    everything = provider.http.get("/v1/models", params={"details": "true"}).json()["data"][0]
    assert {"pricing", "capabilities", "modalities"} <= everything.keys()
    assert provider.http.get("/v1/models", params={"id": "openai/unknown"}).json()["data"] == []


def test_one_model_can_be_looked_up(provider: Provider) -> None:
    answer = provider.http.get("/model/openai/o3-pro", params={"include": "pricing"}).json()
    assert (answer["object"], answer["data"]["id"]) == ("model", "openai/o3-pro")
    assert provider.http.get("/model/openai/unknown").status_code == 404


def test_a_withdrawn_model_is_gone(provider: Provider) -> None:
    provider.configure(withdrawn_models=["openai/o3-pro"])
    assert provider.http.get("/v1/models").json()["data"] == []
    for path in ("/v1/models?id=openai/o3-pro", "/model/openai/o3-pro"):
        assert provider.http.get(path).status_code == 404


def test_the_catalogue_has_an_etag(provider: Provider) -> None:
    tag = provider.http.get("/v1/models").headers["etag"]
    same = provider.http.get("/v1/models", headers={"if-none-match": tag})
    assert (same.status_code, same.content) == (304, b"")
    assert provider.http.get("/v1/models?details=1", headers={"if-none-match": tag}).status_code == 200


def test_the_log_has_a_row_per_request(provider: Provider) -> None:
    inference_id = provider.ask("[[sim: full tokens=20 input-tokens=10 cost=0.5]]", call_id="job_1:1").headers[
        "x-inference-id"
    ]
    provider.ask("[[sim: 500]]", call_id="job_1:2")
    logs = provider.http.get("/v2/logs", params=DAY).json()
    failed, succeeded = logs["data"]
    assert datetime.fromisoformat(succeeded.pop("created")).tzinfo is not None
    assert succeeded == {
        "status": "succeeded",
        "origin": "api",
        "model": "openai/o3-pro",
        "cost": {"usd": 0.5, "credits": 1_000_000},
        "tokens": {"input": 10, "output": 20, "total": 30},
        "request_id": "req-1",
        "inference_id": inference_id,
        "client_request_id": "job_1:1",
    }
    assert (failed["status"], failed["cost"], failed["client_request_id"]) == (
        "failed",
        {"usd": 0.0, "credits": 0},
        "job_1:2",
    )
    assert logs["pagination"] == {"limit": 50, "offset": 0, "total": 2, "has_more": False}


def test_a_lost_answer_can_be_found_in_the_log(provider: Provider) -> None:
    with provider.raw("[[sim: drop-after-headers]]") as call:
        call.read_to_end()
    provider.await_call("dropped")
    assert provider.http.get("/v2/logs", params=DAY).json()["data"][0]["status"] == "succeeded"


def test_the_log_is_paged_and_filtered(provider: Provider) -> None:
    for number in range(5):
        provider.ask(call_id=f"job:{number}")
    page = provider.http.get("/v2/logs", params={**DAY, "limit": 2, "offset": 1}).json()
    assert [row["client_request_id"] for row in page["data"]] == ["job:3", "job:2"]
    assert page["pagination"] == {"limit": 2, "offset": 1, "total": 5, "has_more": True}

    def total(**filters: Any) -> int:
        found: int = provider.http.get("/v2/logs", params={**DAY, **filters}).json()["pagination"]["total"]
        return found

    assert total(model="o3-pro") == 5
    assert total(model="openai/o3-pro,other") == 0
    assert total(status="failed") == 0
    assert total(status=["failed", "succeeded"]) == 5
    assert total(key_prefix="test-key") == 5
    now = datetime.now(UTC)
    window = {"start": (now - timedelta(hours=1)).isoformat(), "end": now.replace(tzinfo=None).isoformat()}
    assert provider.http.get("/v2/logs", params=window).json()["pagination"]["total"] == 5
    other_key = provider.http.get("/v2/logs", params=DAY, headers={"authorization": "Bearer other"})
    assert other_key.json()["data"] == []


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"period": "1w"},
        {"period": "93d"},
        {"period": "1d", "start": "2026-01-01"},
        {"start": "2026-01-01"},
        {"start": "2026-01-02", "end": "2026-01-01"},
        {"start": "2026-01-01", "end": "2026-06-01"},
        {"start": "soon", "end": "2026-06-01"},
        {**DAY, "limit": "101"},
        {**DAY, "limit": "0"},
        {**DAY, "offset": "-1"},
        {**DAY, "status": "failed,succeeded"},
    ],
)
def test_a_bad_log_query_is_refused(provider: Provider, query: dict[str, str]) -> None:
    assert provider.http.get("/v2/logs", params=query).status_code == 400


def test_the_log_shows_only_the_calls_of_its_key(provider: Provider) -> None:
    assert provider.http.get("/v2/logs", params={**DAY, "key_prefix": "someone-"}).status_code == 403
    for path in ("/v2/logs", "/v2/billing"):
        assert provider.http.get(path, headers={"authorization": "Bearer bad-key"}).status_code == 401


def test_the_log_can_be_late_and_lack_rows(provider: Provider) -> None:
    def rows() -> int:
        return len(provider.http.get("/v2/logs", params=DAY).json()["data"])

    with provider.raw("[[sim: full delay=60]]"):
        for number in range(40):
            provider.ask(call_id=f"job:{number}")
        assert rows() == 40  # the running call has no row yet
    provider.configure(logs_missing=0.5)
    assert 5 <= rows() <= 35
    provider.configure(logs_missing=0, logs_lag=60)
    assert rows() == 0


def test_the_log_has_a_rate_limit(provider: Provider) -> None:
    statuses = [provider.http.get("/v2/logs", params=DAY).status_code for _ in range(201)]
    assert statuses == [200] * 200 + [429]


def test_the_balance_falls_with_each_billed_call(provider: Provider) -> None:
    before = provider.http.get("/v2/billing").json()["current_balance"]
    provider.ask("[[sim: full cost=2.5]]")
    assert provider.http.get("/v2/billing").json() == {"current_balance": before - 2.5, "currency": "USD"}
