"""A path with a slash at its end gets the same answer as without, and no redirect."""

import pytest

from tests.api.world import MODEL, FakeWorker, Json, Tenant, assert_error

pytestmark = pytest.mark.one_database

BODY: Json = {"model": MODEL, "input": "Hello", "background": True}


def test_a_response_is_submitted_and_read_with_a_slash(tenant: Tenant, worker: FakeWorker) -> None:
    created = tenant.http.post("/v1/responses/", json=BODY)
    assert (created.status_code, created.json()["status"]) == (200, "queued")
    job_id = created.json()["id"]
    worker.complete(job_id)
    path = f"/v1/responses/{job_id}"
    plain, slashed = tenant.http.get(path), tenant.http.get(f"{path}/")
    assert (slashed.status_code, slashed.json(), slashed.headers["etag"]) == (200, plain.json(), plain.headers["etag"])
    assert tenant.http.get(f"{path}/", headers={"if-none-match": plain.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    "path",
    [
        "/v1/responses",
        "/v1/responses?limit=1",
        "/v1/responses/{}?wait=0.01",
        "/v1/responses/{}/attempts",
        "/v1/responses/{}/input_items",
        "/v1/models",
        "/v1/models/openai/o3-pro",
        "/v1/usage",
        "/v1/webhook_endpoints",
        "/healthz",
        "/openapi.json",
    ],
)
def test_every_readable_path_can_be_read_with_a_slash(tenant: Tenant, path: str) -> None:
    path = path.format(tenant.submit()["id"])
    address, mark, query = path.partition("?")
    plain, slashed = tenant.http.get(path), tenant.http.get(f"{address}/{mark}{query}")
    assert (plain.status_code, slashed.status_code) == (200, 200)
    assert slashed.content == plain.content


def test_a_response_is_cancelled_retried_and_deleted_with_a_slash(tenant: Tenant) -> None:
    path = f"/v1/responses/{tenant.submit()['id']}"
    assert tenant.http.post(f"{path}/cancel/").json()["status"] == "cancelled"
    assert tenant.http.post(f"{path}/retry/").json()["status"] == "queued"
    assert tenant.http.delete(f"{path}/").json()["deleted"] is True
    assert_error(tenant.http.get(f"{path}/"), 404, param="response_id")


def test_errors_are_the_same_with_a_slash(tenant: Tenant) -> None:
    assert_error(tenant.http.get("/v1/nothing/"), 404)
    assert_error(tenant.http.put("/v1/responses/"), 405)
    assert_error(tenant.http.post("/v1/responses/", json={"model": MODEL}), 400, **missing("input"))
    assert_error(tenant.http.get("/v1/files/"), 404, code="not_offered")
    assert_error(tenant.http.get("/v1/models//"), 404, code="model_not_found", param="model")


def missing(param: str) -> dict[str, str]:
    return {"param": param, "code": "missing_required_parameter"}


@pytest.mark.parametrize("path", ["/v1/responses/", "/v1/models/", "/docs/", "/nothing/", "//elsewhere.example/"])
def test_no_path_redirects_to_a_host_named_by_the_client(tenant: Tenant, path: str) -> None:
    answer = tenant.http.get(path, headers={"host": "elsewhere.example"})
    assert not answer.is_redirect
    assert "location" not in answer.headers
