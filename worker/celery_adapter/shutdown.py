"""Ends a worker that was told to stop, whatever Celery's own way out waits for.

Celery closes its connections first, and each of them may wait for a broker that is away: its listener for commands and
its event dispatcher hold what the main greenlet then waits for, without an end. So the calls are waited for beside it,
and once nothing is held any more, Celery has some seconds left. They are counted in a thread of the system's, which is
told of a signal by the interpreter itself: what stops every greenlet, such as a disk that hangs under SQLite's file,
stops the handler of the signal as well.
"""

import os
import signal
from collections.abc import Callable
from time import monotonic
from typing import Final

import gevent
from gevent.monkey import get_original

LEAVE_SECONDS: Final = 3.0
"""How long Celery's own way out may take once the worker holds nothing."""
LOOK_EVERY: Final = 0.1
EXIT_CODES: Final = {signal.SIGTERM: 0, signal.SIGINT: 1}
"""As Celery's."""
READ_AT_ONCE: Final = 64


class Leaving:
    """The way out of one worker process."""

    def __init__(self, finish: Callable[[], None], holds_anything: Callable[[], bool]) -> None:
        """`finish` waits for what is held and hands back the rest; `holds_anything` is asked from another thread."""
        self._finish = finish
        self._holds_anything = holds_anything
        self._has_begun = False
        self._signals: int | None = None

    def watch(self) -> None:
        """Begin to listen for signals. In the main thread only."""
        reader, self._signals = os.pipe()
        os.set_blocking(self._signals, False)
        signal.set_wakeup_fd(self._signals, warn_on_full_buffer=False)
        get_original("_thread", "start_new_thread")(self._listen, (reader,))

    def begin(self) -> None:
        """Leave. Never waits: it is called in a signal's handler, which may be called again."""
        if self._has_begun:
            return
        self._has_begun = True
        gevent.spawn(self._finish)  # unlike a thread's start it does not wait, which gevent's hub may not
        if self._signals is not None:
            os.write(self._signals, bytes([signal.SIGTERM]))  # whatever the signal was

    def _listen(self, reader: int) -> None:
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
