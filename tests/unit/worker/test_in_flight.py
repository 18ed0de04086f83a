"""The calls in flight, and those that a stop message ends."""

from datetime import timedelta
from time import monotonic

import pytest

from jobs.cancel_reason import AbortReason
from tests.support.records import an_attempt
from worker.in_flight import InFlightCalls
from worker.provider.call_handle import CallHandle


@pytest.mark.parametrize(("last", "ended"), [(0, []), (1, [1]), (2, [1, 2]), (3, [1, 2])])
def test_a_late_stop_message_ends_no_call_that_began_after_it(last: int, ended: list[int]) -> None:
    calls = InFlightCalls(on_end=lambda: None)
    handles = {number: CallHandle() for number in (1, 2)}
    stranger = CallHandle()
    for number, handle in handles.items():
        calls.begin(an_attempt("resp_1", number), handle, timedelta(minutes=1))
    calls.begin(an_attempt("resp_2", 1), stranger, timedelta(minutes=1))
    calls.abort("resp_1", last, AbortReason.CANCELLED)
    assert [number for number, handle in handles.items() if handle.aborted is AbortReason.CANCELLED] == ended
    assert stranger.aborted is None


def test_a_slot_comes_free_when_its_call_ends() -> None:
    freed: list[str] = []
    calls = InFlightCalls(on_end=lambda: freed.append("slot"))
    call = calls.begin(an_attempt("resp_1", 1), CallHandle(), timedelta(minutes=1))
    assert (len(calls), freed) == (1, [])
    calls.end(call)
    assert (len(calls), freed) == (0, ["slot"])


@pytest.mark.timeout(10)
def test_a_stop_message_for_a_huge_attempt_number_takes_no_time() -> None:
    calls, handle = InFlightCalls(on_end=lambda: None), CallHandle()
    calls.begin(an_attempt("resp_1", 1), handle, timedelta(minutes=1))
    calls.abort("resp_2", 10**100, AbortReason.CANCELLED)
    assert handle.aborted is None
    calls.abort("resp_1", 10**100, AbortReason.CANCELLED)
    assert handle.aborted is AbortReason.CANCELLED


def test_a_text_that_came_while_the_process_was_paused_is_no_stall() -> None:
    handle, now = CallHandle(), monotonic()
    handle.set_idle_timeout(1.0)
    handle.check_timeouts(now + 600, frozen=600)
    handle.check_timeouts(now + 600.5)
    assert handle.aborted is None
    handle.check_timeouts(now + 602)
    assert handle.aborted is AbortReason.STALLED
