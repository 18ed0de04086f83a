"""The number of calls that this process may hold: as configured, or as many as its files, memory and threads allow.

A call that meets a shortage is released, and the slots are lowered to the calls that found room. Another process may
have caused the shortage, so the slots are raised again each minute: by a tenth, and twice as much each time that holds.
"""

import resource
from collections.abc import Callable
from time import monotonic
from typing import Final

from jobs.telemetry import get_logger
from worker.in_flight import InFlightCalls
from worker.registration import WorkerRegistration

LEAST_OTHER_FILES: Final = 64
"""Files for the database, the broker and logs. They and deliveries get at least a quarter of the limit."""
SHARE_THAT_FITS: Final = 0.9
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
RAISED_EVERY: Final = 60.0
FIRST_RAISE: Final = 0.1
"""Share of the slots by which they are raised first."""

log = get_logger(__name__)


class Pause:
    """Time after a shortage in which nothing is begun: a second, and twice as long each time it lasts."""

    def __init__(self) -> None:
        self._seconds = FIRST_PAUSE
        self._until = float("-inf")

    @property
    def is_on(self) -> bool:
        """Return whether the pause lasts."""
        return monotonic() < self._until

    def begin(self) -> bool:
        """Begin a pause. Return False during one, as many calls meet the same shortage."""
        now = monotonic()
        if now < self._until:
            return False
        self._seconds = FIRST_PAUSE if now - self._until > RAISED_EVERY else min(2 * self._seconds, LONGEST_PAUSE)
        self._until = now + self._seconds
        return True


class Capacity:
    """The slots of one worker process."""

    def __init__(self, registration: WorkerRegistration, calls: InFlightCalls) -> None:
        self._registration = registration
        self._calls = calls
        self._max_slots = registration.concurrency
        self._lasting: str | None = None
        self._apply: Callable[[int], None] = lambda _slots: None
        self._pause = Pause()
        self._changed_at = float("-inf")
        self._raise = FIRST_RAISE

    def begin(self, wanted: int, file_limit: int, apply: Callable[[int], None]) -> None:
        """Take `wanted` slots, or as many as `file_limit` allows. `apply` is called with the number at every change."""
        self._apply = apply
        self._max_slots = wanted
        if file_limit != resource.RLIM_INFINITY:
            fits = file_limit - max(LEAST_OTHER_FILES, file_limit // 4)
            if fits < wanted:
                self._max_slots = max(1, fits)
                self._lasting = f"it may open {file_limit} files"
                log.warning("fewer slots than configured", reason=self._lasting, slots=self._max_slots, of=wanted)
        self._set(self._max_slots, self._lasting)

    def has_room(self, busy: int) -> bool:
        """Return whether one more call may begin while `busy` are under way."""
        now = monotonic()
        if self._registration.concurrency < self._max_slots and now - self._changed_at > RAISED_EVERY:
            slots = self._registration.concurrency
            slots = min(self._max_slots, slots + max(1, int(slots * self._raise)))
            self._raise *= 2
            self._changed_at = now
            self._set(slots, self._registration.short_of if slots < self._max_slots else self._lasting)
            log.info("slots raised", slots=slots, of=self._max_slots)
        return busy < self._registration.concurrency and not self._pause.is_on

    def short_of(self, what: str) -> None:
        """Lower the slots, as a call could not begin for lack of `what`."""
        if not self._pause.begin():
            return
        fits = sum(not call.handle.never_sent for call in self._calls.held())
        slots = max(1, min(self._registration.concurrency, int(fits * SHARE_THAT_FITS)))
        self._changed_at = monotonic()
        self._raise = FIRST_RAISE
        self._set(slots, what)
        log.warning("slots lowered", reason=what, slots=slots, of=self._max_slots)

    def _set(self, slots: int, short_of: str | None) -> None:
        self._registration.concurrency = slots
        self._registration.short_of = short_of
        self._apply(slots)
