"""The calls that this process holds right now, and how to end one from outside."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic, sleep

from jobs.cancel_reason import AbortReason
from jobs.job import Attempt
from worker.provider.call_handle import CallHandle

SWEPT_AT_ONCE = 500
LONGEST_GAP = 2.0
"""Between two sweeps, in seconds, of a process that runs; else it was frozen, and could not have read what came."""


@dataclass(frozen=True)
class RunningCall:
    """One call in flight; `ends_at` is its deadline on this process's monotonic clock."""

    attempt: Attempt
    handle: CallHandle
    ends_at: float


class InFlightCalls:
    """The calls in flight, by job. Every verb may be used from any thread or greenlet."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        """`on_end` is told whenever a slot has come free."""
        self._running: dict[tuple[str, int], RunningCall] = {}
        self._numbers: dict[str, set[int]] = {}
        self._broken_off: dict[tuple[str, int], CallHandle] = {}
        self._on_end = on_end
        self._swept_at = monotonic()

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, attempt: Attempt, handle: CallHandle, length: timedelta) -> RunningCall:
        """Enter a call before it is sent."""
        call = RunningCall(attempt, handle, monotonic() + length.total_seconds())
        self._running[attempt.job_id, attempt.number] = call
        self._numbers.setdefault(attempt.job_id, set()).add(attempt.number)
        return call

    def end(self, call: RunningCall) -> None:
        """Take a call off the list once its result is recorded."""
        job_id, number = call.attempt.job_id, call.attempt.number
        self._running.pop((job_id, number), None)
        numbers = self._numbers.get(job_id, set())
        numbers.discard(number)
        if not numbers:
            self._numbers.pop(job_id, None)
        self._on_end()

    def break_off(self, call: RunningCall) -> None:
        """Take a call off the list of which no result is recorded: its greenlet was killed, or recording failed."""
        self._broken_off[call.attempt.job_id, call.attempt.number] = call.handle
        self.end(call)

    def never_sent(self, job_id: str, attempt: int) -> bool:
        """Whether no byte was written for a call that is not held: never begun here, or broken off before that."""
        handle = self._broken_off.get((job_id, attempt))
        return handle is None or handle.never_sent

    def forget(self, job_id: str, attempt: int) -> None:
        """A call that was broken off is accounted for."""
        self._broken_off.pop((job_id, attempt), None)

    def held(self) -> list[RunningCall]:
        """Every call in flight."""
        return list(self._running.values())

    def holds(self, job_id: str, attempt: int) -> bool:
        """Whether this very call is in flight."""
        return (job_id, attempt) in self._running

    def attempts(self) -> set[tuple[str, int]]:
        """The same as (job id, attempt)."""
        return {*self._running}

    def abort(self, job_id: str, last: int, reason: AbortReason) -> None:
        """End the calls of one job up to attempt `last`, if any are held here."""
        for number in sorted(self._numbers.get(job_id, ())):  # not up to `last`, which may be any number
            call = self._running.get((job_id, number)) if number <= last else None
            if call is not None:
                call.handle.abort(reason)

    def abort_all(self, reason: AbortReason) -> None:
        """End every call."""
        for call in self.held():
            call.handle.abort(reason)

    def abort_overdue(self) -> None:
        """End every call whose deadline has passed, or whose answer has come to a halt."""
        now = monotonic()
        gap = now - self._swept_at
        self._swept_at = now
        frozen = gap if gap > LONGEST_GAP else 0.0
        for number, call in enumerate(self.held(), 1):
            if number % SWEPT_AT_ONCE == 0:
                sleep(0)  # ten thousand would hold up all else for 6 ms
            if call.ends_at <= now:
                call.handle.abort(AbortReason.CALL_DEADLINE)
            call.handle.check_timeouts(now, frozen)
