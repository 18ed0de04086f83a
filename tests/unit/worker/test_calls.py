"""The calls in flight, and which of them a word from outside ends."""

from datetime import UTC, datetime, timedelta

import pytest

from jobs.errors import Billed
from jobs.job import Attempt, Truncation
from worker.calls import Calls
from worker.provider.line import AbortReason, Line


def attempt(job_id: str, number: int) -> Attempt:
    return Attempt(
        job_id=job_id,
        number=number,
        api_key_id="key_1",
        model="a-model",
        worker_id="wrk_1",
        started_at=datetime.now(UTC),
        ended_at=None,
        outcome=None,
        billed=Billed.UNKNOWN,
        truncation=Truncation.DISABLED,
        resumes=None,
        error_kind=None,
        error_message=None,
        http_status=None,
        provider_request_id=None,
        provider_response_id=None,
        usage=None,
        cost=None,
    )


@pytest.mark.parametrize(("last", "ended"), [(0, []), (1, [1]), (2, [1, 2]), (3, [1, 2])])
def test_a_late_word_ends_no_call_that_began_after_it_was_said(last: int, ended: list[int]) -> None:
    calls = Calls(on_end=lambda: None)
    lines = {number: Line() for number in (1, 2)}
    stranger = Line()
    for number, line in lines.items():
        calls.begin(attempt("resp_1", number), line, timedelta(minutes=1))
    calls.begin(attempt("resp_2", 1), stranger, timedelta(minutes=1))
    calls.abort("resp_1", last, AbortReason.CANCELLED)
    assert [number for number, line in lines.items() if line.aborted is AbortReason.CANCELLED] == ended
    assert stranger.aborted is None


def test_a_slot_comes_free_when_its_call_ends() -> None:
    freed: list[str] = []
    calls = Calls(on_end=lambda: freed.append("slot"))
    call = calls.begin(attempt("resp_1", 1), Line(), timedelta(minutes=1))
    assert (len(calls), freed) == (1, [])
    calls.end(call)
    assert (len(calls), freed) == (0, ["slot"])
