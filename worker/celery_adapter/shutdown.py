"""Ends a worker that was asked to stop, whatever Celery's own shutdown waits for.

Celery closes its connections first, and each may wait for a broker that is away. Its listener for commands and its
event dispatcher hold what the main greenlet then waits for, without end. So calls are waited for in another greenlet.
Once nothing is held, Celery has `LEAVE_SECONDS` left. A thread of the operating system counts them, and the interpreter
itself passes signals to it: whatever stops every greenlet, such as a disk that hangs under SQLite's file, also stops
the signal handler.
"""

import os
import signal
from collections.abc import Callable
from time import monotonic
from typing import Final

import gevent
from gevent.monkey import get_original

LEAVE_SECONDS: Final = 3.0
"""Longest duration of Celery's own shutdown once the worker holds nothing."""
LOOK_EVERY: Final = 0.1
EXIT_CODES: Final = {signal.SIGTERM: 0, signal.SIGINT: 1}
"""As Celery's."""
READ_AT_ONCE: Final = 64


class Shutdown:
    """The shutdown of one worker process."""

    def __init__(self, finish: Callable[[], None], holds_anything: Callable[[], bool]) -> None:
        """Create it.

        `finish` waits for what is held and releases the rest. `holds_anything` is called from another thread.
        """
        self._finish = finish
        self._holds_anything = holds_anything
        self._has_begun = False
        self._signals: int | None = None

    def watch(self) -> None:
        """Begin to watch for signals. In the main thread only."""
        reader, self._signals = os.pipe()
        os.set_blocking(self._signals, False)
        signal.set_wakeup_fd(self._signals, warn_on_full_buffer=False)
        get_original("_thread", "start_new_thread")(self._watch, (reader,))

    def begin(self) -> None:
        """Begin to leave. Never waits, as it runs in a signal handler, and may be called again."""
        if self._has_begun:
            return
        self._has_begun = True
        gevent.spawn(self._finish)  # starting a thread would wait, which gevent's hub may not
        if self._signals is not None:
            os.write(self._signals, bytes([signal.SIGTERM]))  # whichever signal it was

    def _watch(self, reader: int) -> None:
        while True:
            for number in os.read(reader, READ_AT_ONCE):
                if number in EXIT_CODES:
                    self._end(EXIT_CODES[signal.Signals(number)])

    def _end(self, exit_code: int) -> None:
        sleep = get_original("time", "sleep")
        held_at = monotonic()
        while monotonic() - held_at < LEAVE_SECONDS:
            sleep(LOOK_EVERY)
            if self._holds_anything():
                held_at = monotonic()
        os._exit(exit_code)
