"""The head of an answer is sent before its body is ready."""

from tests.api.world import Tenant


def test_the_head_is_sent_before_a_slow_body(tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    after_all = {"stream": "true", "starting_after": "99"}
    with tenant.http.stream("GET", f"/v1/responses/{job_id}", params=after_all, timeout=10) as answer:
        assert answer.status_code == 200
