"""`Idempotency-Key`: a repeated request creates and bills nothing a second time."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest

from tests.api.world import MODEL, FakeWorker, Tenant

BODY = {"model": MODEL, "input": "Hello", "background": True}


def post(tenant: Tenant, key: str, **changes: object) -> httpx.Response:
    return tenant.http.post("/v1/responses", json={**BODY, **changes}, headers={"Idempotency-Key": key})


def listed(tenant: Tenant) -> int:
    return len(tenant.http.get("/v1/responses", params={"limit": 100}).json()["data"])


def test_the_same_request_is_answered_with_the_same_response(tenant: Tenant) -> None:
    key = str(uuid4())
    first, again = post(tenant, key), post(tenant, key)
    assert first.status_code == again.status_code == 200
    assert first.json()["id"] == again.json()["id"]
    assert listed(tenant) == 1


def test_another_body_under_the_same_key_is_refused(tenant: Tenant) -> None:
    key = str(uuid4())
    post(tenant, key)
    refused = post(tenant, key, input="Goodbye")
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "Idempotency-Key"
    assert refused.json()["error"]["code"] == "idempotency_key_reused"
    assert refused.headers["x-should-retry"] == "false"
    assert listed(tenant) == 1


def test_fifty_concurrent_requests_create_one_job(tenant: Tenant) -> None:
    key = str(uuid4())
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: post(tenant, key), range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert listed(tenant) == 1


def test_a_key_belongs_to_its_tenant(tenant: Tenant, other: Tenant) -> None:
    key = str(uuid4())
    assert post(tenant, key).json()["id"] != post(other, key).json()["id"]


def test_without_a_key_equal_requests_are_separate_jobs(tenant: Tenant) -> None:
    ids = {tenant.http.post("/v1/responses", json=BODY).json()["id"] for _ in range(3)}
    assert len(ids) == 3


def test_a_repeated_request_shows_the_current_response(tenant: Tenant, worker: FakeWorker) -> None:
    key = str(uuid4())
    job_id = post(tenant, key).json()["id"]
    worker.complete(job_id)
    assert post(tenant, key).json()["status"] == "completed"


def test_a_deleted_response_frees_its_key(tenant: Tenant) -> None:
    key = str(uuid4())
    first = post(tenant, key).json()["id"]
    tenant.http.delete(f"/v1/responses/{first}").raise_for_status()
    assert post(tenant, key).json()["id"] != first


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_an_invalid_key_is_refused(tenant: Tenant, key: str) -> None:
    refused = post(tenant, key)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "Idempotency-Key"
