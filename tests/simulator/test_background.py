"""Native background mode: off by default; when on, responses are fetched and cancelled by id."""

from typing import Any

import httpx

from tests.simulator.provider import Provider
from tests.support.waiting import await_until


def await_status(provider: Provider, response_id: str, status: str) -> httpx.Response:
    def look() -> httpx.Response | None:
        answer = provider.http.get(f"/v1/responses/{response_id}")
        return answer if answer.json()["status"] == status else None

    return await_until(look, 5, f"{response_id} never was {status}")


def test_background_is_accepted_and_ignored_by_default(provider: Provider) -> None:
    answer = provider.ask(background=True).json()
    assert (answer["status"], answer["background"]) == ("completed", False)
    assert provider.http.get(f"/v1/responses/{answer['id']}").status_code == 404
    assert provider.only_call()["background"] is True


def test_a_background_response_is_queued_made_and_fetched(provider: Provider) -> None:
    provider.configure(native_background=True, poll_after_ms=250)
    submitted = provider.ask("[[sim: full delay=0.2 text=Done cost=0.5]]", background=True, call_id="job:1")
    response: dict[str, Any] = submitted.json()
    assert (response["status"], response["output"], response["usage"]) == ("queued", [], None)
    assert response["background"] is True
    assert submitted.headers["openai-poll-after-ms"] == "250"
    assert (provider.only_call()["outcome"], provider.only_call()["billed"]) == ("running", False)
    await_status(provider, response["id"], "in_progress")
    done = await_status(provider, response["id"], "completed")
    assert done.json()["output_text"] == "Done"
    assert done.headers["x-aimlapi-usd-spent"] == "0.500000000"
    assert "openai-poll-after-ms" not in done.headers
    call = provider.only_call()
    assert (call["outcome"], call["billed"], call["response_id"]) == ("answered", True, response["id"])
    assert call["polls"] >= 2
    again = provider.http.post(f"/v1/responses/{response['id']}/cancel")
    assert again.json()["status"] == "completed"


def test_a_background_response_can_be_cancelled(provider: Provider) -> None:
    provider.configure(native_background=True)
    response_id = provider.ask("[[sim: full delay=60]]", background=True).json()["id"]
    for _ in range(2):
        assert provider.http.post(f"/v1/responses/{response_id}/cancel").json()["status"] == "cancelled"
    assert (provider.only_call()["outcome"], provider.only_call()["billed"]) == ("cancelled", False)
    assert provider.call_log()["summary"]["in_flight"] == 0


def test_a_background_response_can_be_deleted(provider: Provider) -> None:
    provider.configure(native_background=True)
    response_id = provider.ask("[[sim: full]]", background=True, store=True).json()["id"]
    provider.await_call("answered")
    deleted = provider.http.delete(f"/v1/responses/{response_id}")
    assert deleted.json() == {"id": response_id, "object": "response", "deleted": True}
    assert (provider.only_call()["store"], provider.only_call()["deleted"]) == (True, True)
    assert provider.http.get(f"/v1/responses/{response_id}").status_code == 404
    assert provider.http.delete(f"/v1/responses/{response_id}").status_code == 404


def test_deleting_a_running_one_ends_it(provider: Provider) -> None:
    provider.configure(native_background=True)
    response_id = provider.ask("[[sim: full delay=60]]", background=True).json()["id"]
    assert provider.http.delete(f"/v1/responses/{response_id}").status_code == 200
    assert (provider.only_call()["outcome"], provider.only_call()["billed"]) == ("cancelled", False)


def test_creating_may_fail_and_the_answer_may_too(provider: Provider) -> None:
    provider.configure(native_background=True)
    assert provider.ask("[[sim: 503]]", background=True).status_code == 503
    assert provider.ask("Hello", background=True, stream=True).status_code == 400
    response_id = provider.ask("[[sim: failed]]", background=True).json()["id"]
    assert await_status(provider, response_id, "failed").json()["error"]["code"] == "server_error"
    assert provider.calls()[-1]["billed"] is False


def test_answers_are_not_kept_for_ever(provider: Provider) -> None:
    provider.configure(native_background=True, background_retention=0)
    response_id = provider.ask("[[sim: full]]", background=True).json()["id"]
    provider.await_call("answered")
    assert provider.http.get(f"/v1/responses/{response_id}").status_code == 404
    assert provider.http.post(f"/v1/responses/{response_id}/cancel").status_code == 404


def test_fetching_needs_a_key(provider: Provider) -> None:
    assert provider.http.get("/v1/responses/resp_1", headers={"authorization": ""}).status_code == 401
