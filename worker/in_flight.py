"""The calls that this process holds, and functions that end them from outside."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic, sleep

from jobs.cancel_reason import AbortReason
from jobs.job import Attempt
from worker.provider.call_handle import CallHandle

CHECKED_AT_ONCE = 500
LONGEST_GAP = 2.0
"""Seconds between two checks of a process that runs. After a longer gap it was paused and could not read sockets."""


@dataclass(frozen=True)
class RunningCall:
    """A call in flight. `ends_at` is its deadline on this process's monotonic clock."""

    attempt: Attempt
    handle: CallHandle
    ends_at: float


class InFlightCalls:
    """The calls in flight, by job. For use from any thread or greenlet."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        """Create it. `on_end` is called whenever a slot has come free."""
        self._running: dict[tuple[str, int], RunningCall] = {}
        self._numbers: dict[str, set[int]] = {}
        self._broken_off: dict[tuple[str, int], CallHandle] = {}
        self._on_end = on_end
        self._checked_at = monotonic()

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, attempt: Attempt, handle: CallHandle, length: timedelta) -> RunningCall:
        """Add a call before it is sent."""
        call = RunningCall(attempt, handle, monotonic() + length.total_seconds())
        self._running[attempt.job_id, attempt.number] = call
        self._numbers.setdefault(attempt.job_id, set()).add(attempt.number)
        return call

    def end(self, call: RunningCall) -> None:
        """Remove a call whose outcome is recorded."""
        job_id, number = call.attempt.job_id, call.attempt.number
        self._running.pop((job_id, number), None)
        numbers = self._numbers.get(job_id, set())
        numbers.discard(number)
        if not numbers:
            self._numbers.pop(job_id, None)
        self._on_end()

    def break_off(self, call: RunningCall) -> None:
        """Remove a call whose outcome is not recorded: its greenlet was killed, or recording failed."""
        self._broken_off[call.attempt.job_id, call.attempt.number] = call.handle
        self.end(call)

    def never_sent(self, job_id: str, attempt: int) -> bool:
        """Return whether no byte was sent for a call that is not held: it never began here, or was broken off."""
        handle = self._broken_off.get((job_id, attempt))
        return handle is None or handle.never_sent

    def forget(self, job_id: str, attempt: int) -> None:
        """Forget a call that was broken off and is recorded now."""
        self._broken_off.pop((job_id, attempt), None)

    def held(self) -> list[RunningCall]:
        """Return every call in flight."""
        return list(self._running.values())

    def holds(self, job_id: str, attempt: int) -> bool:
        """Return whether this attempt's call is in flight."""
        return (job_id, attempt) in self._running

    def attempts(self) -> set[tuple[str, int]]:
        """Return the calls in flight, each as a job id and an attempt."""
        return {*self._running}

    def abort(self, job_id: str, last: int, reason: AbortReason) -> None:
        """End the calls of a job up to attempt `last` that are held here."""
        for number in sorted(self._numbers.get(job_id, ())):  # not range(last), which may be any number
            call = self._running.get((job_id, number)) if number <= last else None
            if call is not None:
                call.handle.abort(reason)

    def abort_all(self, reason: AbortReason) -> None:
        """End every call."""
        for call in self.held():
            call.handle.abort(reason)

    def abort_overdue(self) -> None:
        """End every call whose deadline has passed, or whose answer has stalled."""
        now = monotonic()
        gap = now - self._checked_at
        self._checked_at = now
        frozen = gap if gap > LONGEST_GAP else 0.0
        for number, call in enumerate(self.held(), 1):
            if number % CHECKED_AT_ONCE == 0:
                sleep(0)  # ten thousand would block every other greenlet for 6 ms
            if call.ends_at <= now:
                call.handle.abort(AbortReason.CALL_DEADLINE)
            call.handle.check_timeouts(now, frozen)
