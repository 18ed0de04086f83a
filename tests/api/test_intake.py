"""Requests that come at once share a transaction; each is answered for itself."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
from sqlalchemy import text

from jobs.store.database import Database
from tests.api.world import MODEL, Hand, Json, Server, Tenant, a_tenant, serve
from tests.support.waiting import await_until

BODY: Json = {"model": MODEL, "input": "Hello", "background": True}


@contextmanager
def nothing_can_be_accepted(server: Server) -> Iterator[None]:
    database = Database(server.settings.database)
    try:
        with database.begin() as tx:
            if not database.is_sqlite:
                tx.execute(text("LOCK TABLE jobs IN EXCLUSIVE MODE"))
            yield
    finally:
        database.close()


def post(tenant: Tenant, number: int, key: str | None) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    return tenant.http.post("/v1/responses", json={**BODY, "metadata": {"number": str(number)}}, headers=headers)


def test_one_that_cannot_be_written_does_not_fail_those_beside_it(server: Server, tenant: Tenant) -> None:
    """Of those under one key all but the first break the constraint, and with it the transaction of them all."""
    with ThreadPoolExecutor(16) as pool:
        with nothing_can_be_accepted(server):
            first = pool.submit(post, tenant, 0, None)
            await_until(lambda: server.parts.intake._write._working, 10, "nothing is written")
            alone = [first, *(pool.submit(post, tenant, number, None) for number in range(1, 8))]
            alike = [pool.submit(post, tenant, 99, "one key") for _ in range(4)]
            await_until(lambda: len(server.parts.intake._write._waiting) == 11, 10, "they do not wait together")
        answers = [each.result(30).raise_for_status().json() for each in alone]
        same = {each.result(30).raise_for_status().json()["id"] for each in alike}
    assert [each["metadata"] for each in answers] == [{"number": str(number)} for number in range(8)]
    assert len(same) == 1
    assert sorted(tenant.ids()) == sorted({each["id"] for each in answers} | same)


def test_an_ended_response_is_rendered_once_and_gone_when_deleted_elsewhere(
    server: Server, tenant: Tenant, hand: Hand
) -> None:
    job_id = tenant.submit()["id"]
    hand.complete(job_id)
    first, again = (tenant.http.get(f"/v1/responses/{job_id}") for _ in range(2))
    assert (first.content, first.headers["etag"]) == (again.content, again.headers["etag"])
    with serve(server.settings) as other, other.client(tenant.secret) as http:
        assert http.delete(f"/v1/responses/{job_id}").status_code == 200
    assert tenant.http.get(f"/v1/responses/{job_id}").status_code == 404


def test_another_keys_cached_response_is_not_found(server: Server, tenant: Tenant, hand: Hand) -> None:
    job_id = tenant.submit()["id"]
    hand.complete(job_id)
    tenant.get(job_id)
    with a_tenant(server) as stranger:
        assert stranger.http.get(f"/v1/responses/{job_id}").status_code == 404
