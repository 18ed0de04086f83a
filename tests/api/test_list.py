"""The list: filters, pages in both directions, and errors for invalid queries."""

import time
from typing import Any

import pytest

from jobs.lifecycle import Status
from tests.api.world import MODEL, FakeWorker, Json, Tenant, assert_error


def page_through(tenant: Tenant, limit: int, **query: Any) -> list[str]:
    """Return all ids, page by page like the SDK's cursor."""
    found: list[str] = []
    after: Json = {}
    while True:
        page = tenant.page(limit=limit, **query, **after)
        ids = [each["id"] for each in page["data"]]
        assert page["object"] == "list"
        assert len(ids) <= limit
        assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        found += ids
        if not page["has_more"]:
            return found
        after = {"after": page["last_id"]}


def test_an_empty_list(tenant: Tenant) -> None:
    assert tenant.page() == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_responses_are_listed_newest_first_and_as_retrieve_shows_them(tenant: Tenant, worker: FakeWorker) -> None:
    ids = [tenant.submit(metadata={"n": str(n)})["id"] for n in range(len(Status))]
    for status, job_id in zip(Status, ids, strict=True):
        worker.bring_to(status, job_id)
    listed = tenant.page()["data"]
    assert [each["id"] for each in listed] == ids[::-1]
    assert listed == [tenant.get(each) for each in ids[::-1]]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_hold_everything_once_in_both_directions(tenant: Tenant, limit: int) -> None:
    ids = [tenant.submit()["id"] for _ in range(7)]
    assert page_through(tenant, limit) == ids[::-1]
    assert page_through(tenant, limit, order="asc") == ids


def test_pages_do_not_shift_when_responses_are_added_or_deleted(tenant: Tenant) -> None:
    ids = [tenant.submit()["id"] for _ in range(5)]
    first = tenant.ids(limit=2)
    tenant.submit()
    tenant.http.delete(f"/v1/responses/{first[-1]}")  # the cursor itself
    assert first + tenant.ids(after=first[-1]) == ids[::-1]


def test_twenty_by_default(tenant: Tenant) -> None:
    for _ in range(21):
        tenant.submit()
    page = tenant.page()
    assert (len(page["data"]), page["has_more"]) == (20, True)


@pytest.mark.parametrize("status", Status)
def test_by_status(tenant: Tenant, worker: FakeWorker, status: Status) -> None:
    ids = {each: tenant.submit()["id"] for each in Status}
    for each, job_id in ids.items():
        worker.bring_to(each, job_id)
    assert tenant.ids(status=status) == [ids[status]]


def test_by_model(tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    assert tenant.ids(model=MODEL) == [job_id]
    assert tenant.ids(model="openai/o4") == []


def test_by_time_of_creation(tenant: Tenant) -> None:
    before = time.time()
    first = tenant.submit()["id"]
    between = time.time()
    while time.time() < between + 0.002:  # ids are made to the millisecond
        pass
    between = time.time()
    second = tenant.submit()["id"]
    assert tenant.ids(created_after=before - 1) == [second, first]
    assert tenant.ids(created_after=between) == [second]
    assert tenant.ids(created_before=between) == [first]
    assert tenant.ids(created_after=before - 1, created_before=between) == [first]
    assert tenant.ids(created_after=time.time() + 60) == []
    assert tenant.ids(created_before=0) == []


def test_by_metadata_where_all_pairs_must_match(tenant: Tenant) -> None:
    both = tenant.submit(metadata={"team": "blue", "ticket": "1"})["id"]
    one = tenant.submit(metadata={"team": "blue"})["id"]
    tenant.submit(metadata={"team": "red", "ticket": "1"})
    assert tenant.ids(**{"metadata[team]": "blue"}) == [one, both]
    assert tenant.ids(**{"metadata[team]": "blue", "metadata[ticket]": "1"}) == [both]
    assert tenant.ids(**{"metadata[team]": "Blue"}) == []
    assert tenant.ids(**{"metadata[none]": ""}) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("a]b[c", "x"),
        ("[", "]"),
        ("with space & sign", "100 % = ?"),
        ("ключ", "💥"),
        ("line\nbreak", "tab\t\r\n"),
        ("", "empty key"),
        ("empty value", ""),
        ("quote", "'; DROP TABLE jobs; --"),
        ("percent", "%"),
        ("_", "\\"),
    ],
)
def test_any_label_finds_its_response_and_no_other(tenant: Tenant, key: str, value: str) -> None:
    job_id = tenant.submit(metadata={key: value})["id"]
    tenant.submit(metadata={key: value + "x"})
    assert tenant.ids(**{f"metadata[{key}]": value}) == [job_id]


def test_filters_combine_with_each_other_and_with_pages(tenant: Tenant, worker: FakeWorker) -> None:
    ids = [tenant.submit(metadata={"team": "blue"})["id"] for _ in range(4)]
    tenant.submit(metadata={"team": "red"})
    worker.claim(ids[1])
    query: Json = {"status": "queued", "model": MODEL, "created_after": 0, "metadata[team]": "blue"}
    expected = [ids[0], ids[2], ids[3]]
    assert page_through(tenant, 1, **query) == expected[::-1]
    assert page_through(tenant, 2, order="asc", **query) == expected


WRONG: list[tuple[str, str]] = [
    ("limit", "0"),
    ("limit", "101"),
    ("limit", "-1"),
    ("limit", "1.5"),
    ("limit", "many"),
    ("limit", "9" * 5000),
    ("limit", ""),
    ("order", "up"),
    ("order", ""),
    ("status", "done"),
    ("status", "QUEUED"),
    ("status", ""),
    ("created_after", "yesterday"),
    ("created_after", "nan"),
    ("created_after", "-1"),
    ("created_after", "1e12"),
    ("created_before", "inf"),
    ("created_before", "2026-11-22"),
    ("after", "x" * 65),
    ("model", "x" * 257),
    ("after", "resp_\0"),
    ("model", "\0"),
    ("status", "\0"),
    ("order", "\0"),
    ("limit", "\0"),
    ("created_after", "\0"),
    ("metadata[a]", "\0"),
    ("metadata[\0]", "a"),
]


@pytest.mark.parametrize(("param", "value"), WRONG, ids=[f"{p}={v[:10]!r}" for p, v in WRONG])
def test_an_invalid_value_is_refused_by_parameter(tenant: Tenant, param: str, value: str) -> None:
    answer = tenant.http.get("/v1/responses", params={param: value})
    assert_error(answer, 400, code="invalid_value", param=param)


def test_more_labels_than_a_response_has_are_refused(tenant: Tenant) -> None:
    labels = {f"metadata[{n}]": "" for n in range(17)}
    assert_error(tenant.http.get("/v1/responses", params=labels), 400, code="invalid_value", param="metadata")


def test_unknown_parameters_are_ignored(tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    assert tenant.ids(new_filter="x", metadata="y", **{"include[]": "a"}) == [job_id]
