"""The stream and background transports: the same table of ends as the plain one, and what each adds.

The plain transport goes through all of this in `test_main_job.py`.
"""

import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.long

OPEN = {"queued", "in_progress"}
WORKER_TIMEOUT = 3
STALL = 1


def started(stack: Stack) -> Stack:
    """Return `stack` if its provider has a background mode."""
    options = {"native_background": True, "poll_after_ms": 100}
    httpx.put(f"{stack.provider_url}/_script", json=options).raise_for_status()
    return stack


def environment(transport: str) -> dict[str, str]:
    return {
        "BACKBURNER_PROVIDER_TRANSPORT": transport,
        "BACKBURNER_STALL_SECONDS": str(STALL),
        "BACKBURNER_WORKER_TIMEOUT_SECONDS": str(WORKER_TIMEOUT),
    }


@pytest.fixture(scope="module", params=["stream", "background"])
def stack(
    request: pytest.FixtureRequest, database_url_of_module: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    data_dir = tmp_path_factory.mktemp("stack")
    settings = environment(request.param)
    with ValkeyServer() as valkey, Stack(database_url_of_module, valkey.url, data_dir, settings) as stack:
        yield started(stack)


@pytest.fixture
def streaming(stack: Stack) -> Stack:
    if stack.environment["BACKBURNER_PROVIDER_TRANSPORT"] != "stream":
        pytest.skip("a matter of streams")
    return stack


@pytest.fixture
def background(stack: Stack) -> Stack:
    if stack.environment["BACKBURNER_PROVIDER_TRANSPORT"] != "background":
        pytest.skip("a matter of background mode")
    return stack


@pytest.fixture
def mortal(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    """A stack on the background transport whose workers may be killed."""
    with Stack(database_url, valkey.url, tmp_path, environment("background")) as stack:
        yield started(stack)


def ended(stack: Stack, job_id: str, seconds: float = 30) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        body = stack.get(job_id)
        return None if body["status"] in OPEN else body

    return await_until(look, seconds, lambda: f"{job_id} never ended\n{stack.logs()}")


def run(stack: Stack, prompt: str, **fields: Any) -> dict[str, Any]:
    return ended(stack, stack.submit(prompt, **fields))


def text_of(body: dict[str, Any]) -> str:
    text: str = body["output"][-1]["content"][0]["text"]
    return text


def await_accepted(stack: Stack, job_id: str) -> str:
    """Return the provider's id of the response, once it is in the attempt's row."""

    def noted() -> str | None:
        made = stack.attempts(job_id)
        return made[-1]["provider_response_id"] if made else None

    return await_until(noted, 20, lambda: f"{job_id} was never accepted\n{stack.logs()}")


def paid(stack: Stack) -> list[dict[str, Any]]:
    return [call for call in stack.calls() if call["billed"]]


@pytest.mark.parametrize(
    ("behaviour", "text", "total_tokens"),
    [
        ("sample-1 cost=none", "Hi! How’s your day going?", 1051),  # noqa: RUF001  # the sample's own apostrophe
        ("sample-2 cost=none", "Hello! How can I help you today?", 2814),
        ("full text=Both. tokens=640 input-tokens=12", "Both.", 652),
        ("full text=Chunk. tokens=640 input-tokens=12 cost=chunk", "Chunk.", 652),
        ("full text=Body. tokens=640 input-tokens=12 cost=body", "Body.", 652),
        ("huge kb=300 tokens=640 input-tokens=12", "", 652),
    ],
)
def test_an_answer_is_read_and_booked(stack: Stack, behaviour: str, text: str, total_tokens: int) -> None:
    done = run(stack, f"[[sim: {behaviour}]] Hello")
    assert done["status"] == "completed", done
    assert text_of(done).startswith(text)
    assert done["usage"]["total_tokens"] == total_tokens
    [attempt] = stack.attempts(done["id"])
    assert attempt["usage"]["total_tokens"] == total_tokens
    assert attempt["cost_usd"] == done["backburner"]["cost_usd"] > 0
    [call] = stack.calls(done["id"])
    assert call["outcome"] == "answered"
    if "cost=none" not in behaviour and not (call["background"] and "cost=chunk" in behaviour):
        assert attempt["cost_source"] == "provider"
    assert attempt["provider_response_id"] == call["response_id"]


@pytest.mark.parametrize(
    ("behaviour", "code", "calls"),
    [
        ("400-value", "provider_rejected", 1),
        ("overflow", "context_length_exceeded", 1),
        ("404", "model_unavailable", 1),
        ("empty", "empty_output", 1),
        ("failed code=server_error", "server_error", 2),
        ("failed code=invalid_prompt", "invalid_prompt", 1),
    ],
)
def test_a_failure_is_reported_as_on_the_plain_transport(stack: Stack, behaviour: str, code: str, calls: int) -> None:
    done = run(stack, f"[[sim: {behaviour}]] Hello", max_attempts=2)
    assert done["status"] == "failed"
    assert done["error"]["code"] == code
    assert len(stack.calls(done["id"])) == calls


@pytest.mark.parametrize("behaviour", ["429", "503"])
def test_what_costs_nothing_uses_no_attempt(stack: Stack, behaviour: str) -> None:
    done = run(stack, f"[[sim: {behaviour} x3, then full]] Hello", max_attempts=1)
    assert done["status"] == "completed"
    assert len(stack.calls(done["id"])) == 4


def test_429_twice_then_200_costs_three_calls(stack: Stack) -> None:
    done = run(stack, "[[sim: 429 x2, then full]] Hello")
    assert done["status"] == "completed"
    assert [each["outcome"] for each in stack.attempts(done["id"])] == ["failed", "failed", "completed"]
    assert len(stack.calls(done["id"])) == 3


def test_incomplete_keeps_the_partial_text(stack: Stack) -> None:
    done = run(stack, "[[sim: incomplete text=Once_upon]] Hello")
    assert done["status"] == "incomplete"
    assert done["incomplete_details"] == {"reason": "max_output_tokens"}
    assert text_of(done)


@pytest.mark.parametrize("behaviour", ["drop", "close", "half-open max=0.2", "500", "502"])
def test_at_most_once_is_at_most_once(stack: Stack, behaviour: str) -> None:
    done = run(stack, f"[[sim: {behaviour}]] Hello", on_unknown_outcome="fail")
    assert done["error"]["code"] == "outcome_unknown"
    assert len(stack.calls(done["id"])) == 1


def test_a_stream_that_ends_after_whole_items_is_an_answer_though_its_last_event_is_missing(streaming: Stack) -> None:
    done = run(streaming, "[[sim: stream-end text=Whole.]] Hello", on_unknown_outcome="fail")
    assert (done["status"], done["output"][-1]["content"][0]["text"], done["usage"]) == ("completed", "Whole.", None)
    assert len(streaming.calls(done["id"])) == 1


@pytest.mark.parametrize("behaviour", ["truncated", "drop-after-headers"])
def test_a_stream_without_its_last_event_is_an_interrupted_call(streaming: Stack, behaviour: str) -> None:
    once = run(streaming, f"[[sim: {behaviour}]] Hello", on_unknown_outcome="fail")
    assert once["error"]["code"] == "outcome_unknown"
    [attempt] = streaming.attempts(once["id"])
    assert attempt["error"]["kind"] in {"interrupted", "malformed_answer"}
    again = run(streaming, f"[[sim: {behaviour}, then full]] Hello")
    assert again["status"] == "completed"
    assert len(streaming.calls(again["id"])) == 2


def test_an_error_event_is_reported_by_its_code(streaming: Stack) -> None:
    passing = run(streaming, "[[sim: stream-error, then full]] Hello")
    assert (passing["status"], len(streaming.calls(passing["id"]))) == ("completed", 2)
    lasting = run(streaming, "[[sim: stream-error code=invalid_prompt message=No.]] Hello")
    assert (lasting["error"]["code"], lasting["error"]["message"]) == ("invalid_prompt", "No.")
    assert len(streaming.calls(lasting["id"])) == 1


def test_an_answer_that_was_to_be_a_stream_and_is_not_json_either(streaming: Stack) -> None:
    done = run(streaming, "[[sim: not-json]] Hello", max_attempts=1)
    assert done["error"]["code"] == "malformed_answer"


def test_a_text_that_stands_still_is_a_fault(streaming: Stack) -> None:
    begun = time.monotonic()
    done = run(streaming, "[[sim: stall delay=0.1, then full]] Hello")
    assert done["status"] == "completed"
    assert time.monotonic() - begun > STALL
    first, _ = streaming.attempts(done["id"])
    assert (first["outcome"], first["error"]["kind"]) == ("failed", "interrupted")


def test_a_model_that_has_yet_to_speak_may_be_silent(streaming: Stack) -> None:
    done = run(streaming, f"[[sim: full delay={STALL * 2.5}]] Hello")
    assert done["status"] == "completed"
    assert len(streaming.calls(done["id"])) == 1


def test_cancel_closes_the_stream_within_a_second(streaming: Stack) -> None:
    job_id = streaming.submit("[[sim: full delay=60]] Hello")
    await_until(lambda: streaming.calls(job_id), 10, "the call never began")
    asked_at = time.time()
    assert streaming.openai().responses.cancel(job_id).status == "cancelled"

    def closed() -> dict[str, Any] | None:
        [call] = streaming.calls(job_id)
        return call if call["outcome"] == "client_disconnected" else None

    call = await_until(closed, 5, "the connection was never closed")
    assert datetime.fromisoformat(call["finished_at"]).timestamp() - asked_at < 1


def test_cancel_cancels_at_the_provider_within_a_second(background: Stack) -> None:
    job_id = background.submit("[[sim: full delay=60]] Hello")
    await_accepted(background, job_id)
    asked_at = time.time()
    assert background.openai().responses.cancel(job_id).status == "cancelled"

    def cancelled() -> dict[str, Any] | None:
        [call] = background.calls(job_id)
        return call if call["outcome"] == "cancelled" else None

    call = await_until(cancelled, 5, "it was never cancelled there")
    assert datetime.fromisoformat(call["finished_at"]).timestamp() - asked_at < 1
    await_until(lambda: background.attempts(job_id)[0]["outcome"] == "cancelled", 5, "the attempt was never closed")
    assert background.get(job_id)["status"] == "cancelled"


def test_a_jobs_deadline_ends_it_at_the_provider_too(background: Stack) -> None:
    done = run(background, "[[sim: full delay=60]] Hello", deadline_seconds=2)
    assert done["error"]["code"] == "deadline_exceeded"
    await_until(lambda: background.calls(done["id"])[0]["outcome"] == "cancelled", 5, "it was never cancelled there")


def test_the_provider_is_asked_at_its_own_pace(background: Stack) -> None:
    done = run(background, "[[sim: full delay=1]] Hello")
    [call] = background.calls(done["id"])
    assert 5 <= call["polls"] <= 12


@pytest.mark.parametrize("on_unknown_outcome", ["retry", "fail"])
def test_a_killed_workers_responses_are_fetched_and_not_billed_again(mortal: Stack, on_unknown_outcome: str) -> None:
    jobs = [
        mortal.submit(f"[[sim: full delay=12 text=Bought-{number}]] Hello", on_unknown_outcome=on_unknown_outcome)
        for number in range(10)
    ]
    billed = {job_id: await_accepted(mortal, job_id) for job_id in jobs}
    mortal.worker_processes[0].kill()
    mortal.start_worker()
    for number, job_id in enumerate(jobs):
        done = ended(mortal, job_id, 40)
        assert (done["status"], text_of(done)) == ("completed", f"Bought-{number}")
        lost, resumed = mortal.attempts(job_id)
        assert (lost["outcome"], resumed["outcome"]) == ("lost", "completed")
        assert resumed["resumes"] == resumed["provider_response_id"] == billed[job_id]
        assert lost["cost_usd"] is None
        assert resumed["cost_usd"] == done["backburner"]["cost_usd"] > 0
    assert len(mortal.calls()) == len(paid(mortal)) == len(jobs)


def test_a_released_response_is_fetched_by_who_comes_next(mortal: Stack) -> None:
    job_id = mortal.submit("[[sim: full delay=8]] Hello", max_attempts=1, on_unknown_outcome="fail")
    await_accepted(mortal, job_id)
    worker = mortal.worker_processes[0]
    worker.signal(signal.SIGTERM)
    await_until(lambda: worker.popen.poll() is not None, 15, lambda: f"it never stopped\n{mortal.logs()}")
    assert mortal.get(job_id)["status"] == "queued"
    mortal.start_worker()
    assert ended(mortal, job_id)["status"] == "completed"
    assert [each["outcome"] for each in mortal.attempts(job_id)] == ["released", "completed"]
    assert len(mortal.calls()) == 1


def test_a_job_that_ends_while_nobody_holds_it_is_cancelled_at_the_provider(mortal: Stack) -> None:
    job_id = mortal.submit("[[sim: full delay=60]] Hello")
    await_accepted(mortal, job_id)
    mortal.worker_processes[0].kill()
    assert mortal.openai().responses.cancel(job_id).status == "cancelled"
    mortal.start_worker()

    def cancelled() -> bool:
        [call] = mortal.calls(job_id)
        return bool(call["outcome"] == "cancelled")

    await_until(cancelled, 20, lambda: f"it was never cancelled there\n{mortal.logs()}")
    await_until(lambda: mortal.attempts(job_id)[0]["outcome"] == "cancelled", 5, "the attempt was never closed")


def test_two_who_fetch_the_same_response_book_it_once(mortal: Stack) -> None:
    """A frozen worker is marked dead, another resumes its response, and the first wakes up again."""
    job_id = mortal.submit("[[sim: full delay=8 text=Once]] Hello")
    await_accepted(mortal, job_id)
    frozen = mortal.worker_processes[0]
    frozen.signal(signal.SIGSTOP)
    mortal.start_worker()
    await_until(lambda: len(mortal.attempts(job_id)) == 2, 30, lambda: f"nobody went on with it\n{mortal.logs()}")
    frozen.signal(signal.SIGCONT)
    done = ended(mortal, job_id)
    assert (done["status"], text_of(done)) == ("completed", "Once")
    await_until(
        lambda: all(each["outcome"] in {"completed", "cancelled"} for each in mortal.attempts(job_id)),
        10,
        lambda: f"not both reported: {mortal.attempts(job_id)}",
    )
    costs = [each["cost_usd"] for each in mortal.attempts(job_id) if each["cost_usd"]]
    assert costs == [mortal.get(job_id)["backburner"]["cost_usd"]]
    assert len(mortal.calls()) == 1


def test_what_is_not_to_be_stored_is_not_stored_at_the_provider(stack: Stack) -> None:
    is_background = stack.environment["BACKBURNER_PROVIDER_TRANSPORT"] == "background"
    done = run(stack, "[[sim: full text=Once.]] Hello", store=False)
    [call] = stack.calls(done["id"])
    assert (text_of(done), call["store"]) == ("Once.", is_background)
    if is_background:
        await_until(lambda: stack.calls(done["id"])[0]["deleted"], 10, lambda: f"the provider kept it\n{stack.logs()}")


def test_what_was_deleted_here_is_deleted_at_the_provider(background: Stack) -> None:
    done = run(background, "[[sim: full text=Once.]] Hello")
    assert background.calls(done["id"])[0]["deleted"] is False
    background.openai().responses.delete(done["id"])
    await_until(lambda: background.calls(done["id"])[0]["deleted"], 10, "the provider kept it")


def test_a_killed_workers_copy_is_deleted_once_it_was_fetched(mortal: Stack) -> None:
    job_id = mortal.submit("[[sim: full delay=3 text=Once.]] Hello", store=False)
    await_accepted(mortal, job_id)
    mortal.worker_processes[0].kill()
    mortal.start_worker()
    assert text_of(ended(mortal, job_id)) == "Once."
    await_until(lambda: mortal.calls(job_id)[0]["deleted"], 20, lambda: f"the provider kept it\n{mortal.logs()}")
