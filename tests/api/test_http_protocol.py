"""Answers on the wire: a head does not wait for its body."""

from tests.api.world import Tenant


def test_a_head_does_not_wait_for_a_body_that_is_long_in_coming(tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    after_all = {"stream": "true", "starting_after": "99"}
    with tenant.http.stream("GET", f"/v1/responses/{job_id}", params=after_all, timeout=10) as answer:
        assert answer.status_code == 200
