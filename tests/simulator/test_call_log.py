"""The call log, by which crash tests and benchmarks count."""

import hashlib
import json
from datetime import UTC, datetime

import pytest

from tests.simulator.provider import Provider, running


def test_a_call_is_recorded_with_all_that_identifies_it(provider: Provider) -> None:
    began = datetime.now(UTC)
    response = provider.ask("Höi", call_id="job_1:1", truncation="auto", max_output_tokens=99)
    call = provider.only_call()
    assert call["client_request_id"] == "job_1:1"
    assert call["inference_id"] == response.headers["x-inference-id"]
    assert call["response_id"] == response.json()["id"]
    assert call["prompt_sha256"] == hashlib.sha256("Höi".encode()).hexdigest()
    assert call["request_keys"] == ["model", "input", "truncation", "max_output_tokens"]
    assert (call["truncation"], call["stream"], call["background"]) == ("auto", None, None)
    assert (call["model"], call["script"], call["http_status"]) == ("openai/o3-pro", "full", 200)
    assert (call["outcome"], call["billed"], call["sequence"]) == ("answered", True, 1)
    assert call["output_tokens"] == response.json()["usage"]["output_tokens"]
    received, finished = (datetime.fromisoformat(call[name]) for name in ("received_at", "finished_at"))
    assert began <= received <= finished <= datetime.now(UTC)
    assert call["client_closed_at"] is None


def test_the_summary_counts_outcomes_and_money(provider: Provider) -> None:
    for step in ("full cost=0.5", "full cost=0.25", "failed", "500", "not-json cost=1"):
        provider.ask(f"[[sim: {step}]]")
    assert provider.call_log(limit=0) == {
        "summary": {
            "total": 5,
            "in_flight": 0,
            "peak_in_flight": 1,
            "billed": 3,
            "spent_usd": 1.75,
            "outcomes": {"answered": 3, "dropped": 1, "refused": 1},
        },
        "calls": [],
    }


def test_filtered_calls_have_their_own_summary(provider: Provider) -> None:
    for number in range(3):
        provider.ask("A", call_id=f"job_a:{number}")
    provider.ask("B", call_id="job_b:1")
    provider.ask("[[sim: 500]]", call_id="job_b:2")
    of_a = provider.call_log(client_request_id_prefix="job_a:")
    assert of_a["summary"]["billed"] == of_a["summary"]["total"] == len(of_a["calls"]) == 3
    digest = hashlib.sha256(b"B").hexdigest()
    assert [call["client_request_id"] for call in provider.calls(prompt=digest)] == ["job_b:1"]
    assert [call["client_request_id"] for call in provider.calls(outcome="refused")] == ["job_b:2"]
    assert [call["client_request_id"] for call in provider.calls(billed="false")] == ["job_b:2"]
    assert [call["sequence"] for call in provider.calls(after=3)] == [4, 5]
    assert [call["sequence"] for call in provider.calls(limit=2)] == [4, 5]
    assert provider.http.get("/_calls", params={"colour": "red"}).status_code == 400
    assert provider.http.get("/_calls", params={"limit": "all"}).status_code == 400


def test_steps_are_counted_per_job(provider: Provider) -> None:
    prompt = "[[sim: 429 x2 retry-after=1, then full]] Hello"
    statuses = {
        job: [provider.ask(prompt, call_id=f"{job}:{number}").status_code for number in range(1, 5)]
        for job in ("resp_1", "resp_2")
    }
    assert statuses == {"resp_1": [429, 429, 200, 200], "resp_2": [429, 429, 200, 200]}
    assert [call["script"] for call in provider.calls(client_request_id_prefix="resp_2:")] == [
        *["429 x2 retry-after=1"] * 2,
        *["full"] * 2,
    ]


def test_steps_without_an_id_are_counted_per_prompt(provider: Provider) -> None:
    assert [provider.ask("[[sim: 500, full]] A").status_code for _ in range(3)] == [500, 200, 200]
    assert provider.ask("[[sim: 500, full]] B").status_code == 500
    provider.http.delete("/_calls")
    assert provider.ask("[[sim: 500, full]] A").status_code == 500


def test_a_conversation_scripts_each_turn(provider: Provider) -> None:
    first = {"role": "user", "content": "[[sim: 500]] A"}
    reply = {"role": "assistant", "content": "Hello"}
    parts = [{"type": "input_text", "text": "[[sim: 503]]"}, {"type": "input_text", "text": "B"}]
    assert provider.ask([first]).status_code == 500
    assert provider.ask([first, reply, {"role": "user", "content": parts}]).status_code == 503
    assert '"C"' in provider.ask([first, reply, {"role": "user", "content": "C"}]).json()["output_text"]
    assert provider.ask("[[sim: 500]]", instructions="[[sim: 502]]").status_code == 502


@pytest.mark.parametrize("stream", [False, True])
def test_a_disconnect_is_noticed_at_once(provider: Provider, *, stream: bool) -> None:
    with provider.raw("[[sim: full delay=60]]", stream=stream) as call:
        provider.await_call("running")
        paused_at = datetime.now(UTC)
        call.socket.close()
        ended = provider.await_call("client_disconnected")
    noticed_at = datetime.fromisoformat(ended["client_closed_at"])
    assert abs((noticed_at - paused_at).total_seconds()) < 0.25
    assert (ended["billed"], ended["http_status"]) == (False, 200 if stream else None)
    assert provider.call_log()["summary"]["in_flight"] == 0


def test_a_disconnected_call_can_be_billed(provider: Provider) -> None:
    provider.configure(bill_disconnects=True)
    with provider.raw("[[sim: full delay=60 cost=0.5]]"):
        provider.await_call("running")
    ended = provider.await_call("client_disconnected")
    assert (ended["billed"], ended["cost_usd"]) == (True, 0.5)
    provider.http.delete("/_calls")
    with provider.raw("[[sim: half-open]]"):
        provider.await_call("running")
    assert provider.await_call("client_disconnected")["billed"] is False


def test_a_client_may_disconnect_in_the_middle_of_a_stream(provider: Provider) -> None:
    with provider.raw("[[sim: huge kb=64 chunk=8]]", stream=True) as call:
        call.read_until(b"response.output_text.delta")
    assert provider.await_call("client_disconnected")["billed"] is False


def test_a_client_may_read_slowly(provider: Provider) -> None:
    with provider.raw("[[sim: huge kb=20000]]") as call:
        head = call.read_until(b"\r\n\r\n")
        assert (provider.only_call()["outcome"], provider.only_call()["billed"]) == ("running", True)
        body = bytearray(head.partition(b"\r\n\r\n")[2])
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += call.socket.recv(1 << 20)
    assert json.loads(body)["status"] == "completed"
    provider.await_call("answered")


def test_sent_bodies_can_be_read_back(provider: Provider) -> None:
    provider.configure(bodies_limit=2)
    for number in range(3):
        provider.ask(f"Number {number}", call_id=f"job:{number}")
    kept = [call["body"] for call in provider.calls(bodies="true")]
    assert kept[0] is None
    assert [json.loads(body)["input"] for body in kept[1:]] == ["Number 1", "Number 2"]
    headers = provider.calls(bodies="true")[-1]["headers"]
    assert headers["x-client-request-id"] == "job:2"
    assert "authorization" not in headers
    assert "body" not in provider.calls()[-1]


def test_the_log_is_bounded_and_its_totals_are_not(provider: Provider) -> None:
    provider.configure(ledger_limit=3)
    with provider.raw("[[sim: full delay=60]]"):
        provider.await_call("running")
        for _ in range(5):
            provider.ask()
        call_log = provider.call_log()
        assert [call["sequence"] for call in call_log["calls"]] == [1, 4, 5, 6]
        assert (call_log["summary"]["total"], call_log["summary"]["billed"]) == (6, 5)


def test_a_reset_deletes_running_calls(provider: Provider) -> None:
    with provider.raw("[[sim: full delay=60]]"):
        provider.await_call("running")
        provider.http.delete("/_calls")
        provider.ask()
        assert provider.call_log()["summary"]["total"] == 1
    call_log = provider.call_log()
    assert call_log["summary"]["outcomes"] == {"answered": 1}
    assert call_log["summary"]["in_flight"] == 0


def test_a_body_over_the_limit_gets_413() -> None:
    with running("--max-body-bytes", "1000") as provider:
        assert provider.ask("x" * 2000).status_code == 413
        assert provider.ask("x" * 100).status_code == 200
        assert [call["outcome"] for call in provider.calls()] == ["refused", "answered"]
