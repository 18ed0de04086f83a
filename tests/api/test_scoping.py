"""A key sees only its own responses. A foreign id gets the same answer as an unknown one."""

from datetime import timedelta

import pytest

from jobs.errors import ErrorKind, Failure
from tests.api.world import FakeWorker, Tenant, assert_error

NOBODYS = "resp_00000000000000000000000000000000"
BY_ID = [
    ("GET", "/v1/responses/{}"),
    ("GET", "/v1/responses/{}?wait=5"),
    ("GET", "/v1/responses/{}/attempts"),
    ("POST", "/v1/responses/{}/cancel"),
    ("POST", "/v1/responses/{}/retry"),
    ("DELETE", "/v1/responses/{}"),
]


@pytest.mark.parametrize(("method", "path"), BY_ID)
@pytest.mark.parametrize("state", ["queued", "in_progress", "failed", "completed"])
def test_a_foreign_id_is_answered_like_an_unknown_one_and_stays_unchanged(
    tenant: Tenant, other: Tenant, worker: FakeWorker, method: str, path: str, state: str
) -> None:
    foreign = other.submit()["id"]
    worker.bring_to(worker.job(foreign).status.__class__(state), foreign)
    before = other.get(foreign)
    refused = assert_error(tenant.http.request(method, path.format(foreign)), 404, param="response_id")
    unknown = assert_error(tenant.http.request(method, path.format(NOBODYS)), 404, param="response_id")
    assert refused.replace(foreign, "") == unknown.replace(NOBODYS, "")
    assert other.get(foreign) == before


@pytest.mark.parametrize("path", ["/v1/responses/{}", "/v1/responses/{}/attempts"])
def test_an_etag_of_a_foreign_response_reveals_nothing(tenant: Tenant, other: Tenant, path: str) -> None:
    foreign = other.submit()["id"]
    answer = tenant.http.get(path.format(foreign), headers={"if-none-match": "*"})
    assert_error(answer, 404, param="response_id")


def test_a_list_holds_only_own_responses_for_any_query(tenant: Tenant, other: Tenant) -> None:
    labels = {"ticket": "4711"}
    mine = tenant.submit(metadata=labels)["id"]
    theirs = other.submit(metadata=labels)["id"]
    assert tenant.ids() == [mine]
    assert tenant.ids(**{"metadata[ticket]": "4711"}) == [mine]
    assert tenant.ids(status="queued", model="openai/o3-pro") == [mine]
    assert tenant.ids(after=theirs, order="asc") == []
    assert tenant.ids(after=theirs) == [mine]  # a foreign id only sets the position
    assert other.ids() == [theirs]


def test_usage_covers_only_the_own_key(tenant: Tenant, other: Tenant, worker: FakeWorker) -> None:
    worker.complete(tenant.submit()["id"])
    worker.complete(other.submit()["id"])
    (row,) = tenant.http.get("/v1/usage").json()["data"]
    assert (row["api_key_id"], row["calls"]) == (tenant.id, 1)


def test_a_queue_position_counts_only_own_jobs(tenant: Tenant, other: Tenant) -> None:
    for _ in range(3):
        other.submit(priority=9)
    first, second, urgent = tenant.submit()["id"], tenant.submit()["id"], tenant.submit(priority=9)["id"]
    positions = [tenant.get(each)["backburner"]["queue_position"] for each in (urgent, first, second)]
    assert positions == [1, 2, 3]


def test_changes_of_a_foreign_job_do_not_change_an_own_one(tenant: Tenant, other: Tenant, worker: FakeWorker) -> None:
    mine, theirs = tenant.submit()["id"], other.submit()["id"]
    before = tenant.get(mine)
    worker.reschedule(theirs, Failure(ErrorKind.RATE_LIMITED, "Slow down.", 429), timedelta(hours=1))
    other.http.delete(f"/v1/responses/{theirs}")
    assert tenant.get(mine) == before
