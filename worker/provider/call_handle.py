"""One call's hold on its connection, so that the call can be ended from outside at any moment.

Cancelling, deadlines and shutdown all come down to shutting one socket down. Whoever waits on it, a thread in `recv`
or a greenlet in its hub, then wakes at once and finds the connection at its end; nothing is polled. That is done to the
operating system's socket, below gevent's and ssl's own objects, which may be used by the waiting side alone.
"""

import _socket  # the socket type beneath the standard library's and gevent's
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from threading import Lock, RLock
from time import monotonic
from typing import Any, Final


class AbortReason(StrEnum):
    """Why a call was ended on our side."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"
    CALL_DEADLINE = "call_deadline"
    RELEASED = "released"
    STALLED = "stalled"
    SUPERSEDED = "superseded"


def _keepalive() -> tuple[tuple[int, int, int], ...]:
    """Probes that keep an idle connection known to every gateway on its way, and find a dead one in 90 s.

    The shortest idle cut-offs known are about 60 s. `TCP_USER_TIMEOUT` bounds what keepalive does not cover: a request
    that nobody acknowledges. macOS has another name for the first and lacks the last.
    """
    idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)
    wanted = (
        (idle, 30),
        (getattr(socket, "TCP_KEEPINTVL", None), 15),
        (getattr(socket, "TCP_KEEPCNT", None), 4),
        (getattr(socket, "TCP_USER_TIMEOUT", None), 90_000),
    )
    options = tuple((socket.IPPROTO_TCP, option, value) for option, value in wanted if option is not None)
    return ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *options)


KEEPALIVE: Final = _keepalive()


class CallHandle:
    """The connection of one call, or its connections one after the other; used for that one call.

    `abort` may be called from any thread or greenlet, and from a signal handler. Where there is no socket yet (names
    being resolved, a connection being made) the call ends as soon as there is one, at the latest with its connect
    timeout; nothing has been sent by then.
    """

    __slots__ = (
        "_aborted",
        "_begun",
        "_bell",
        "_due",
        "_ended",
        "_grace",
        "_guard",
        "_posting",
        "_sent",
        "_socket",
        "_spare",
        "when_taken",
    )

    def __init__(self) -> None:
        self._guard = RLock()  # re-entrant: a signal handler may come upon its own thread holding it
        self._aborted: AbortReason | None = None
        self._begun = False
        self._bell: Any = None
        self._due: float | None = None
        self._ended = False
        self._grace: float | None = None
        self._posting = False
        self._sent = False
        self._socket: Any = None
        self._spare: int | None = None
        self.when_taken: Callable[[], None] | None = None
        """Told once the provider has begun to answer a request with success; must not raise."""

    @property
    def aborted(self) -> AbortReason | None:
        """Why the call was ended on our side; None while it was not."""
        return self._aborted

    @property
    def sent(self) -> bool:
        """Whether the whole request was handed to the network."""
        return self._sent

    @property
    def never_sent(self) -> bool:
        """Whether no byte of the request that buys an answer was written: the one test of a call that cost nothing.

        A part of a request is enough for a provider, or a proxy before it, to act on. A handshake, a proxy's CONNECT
        and a request for what was bought before are no part of it.
        """
        return not self._begun

    def abort(self, reason: AbortReason) -> bool:
        """End the call. False when it was over, or had been aborted before: the first reason stands."""
        with self._guard:
            if self._ended or self._aborted is not None:
                return False
            self._aborted = reason
            if self._bell is not None:
                self._bell.release()
            if self._grace is not None and self._sent:
                self._due = monotonic() + self._grace
            else:
                self._cut()
            return True

    def keep(self, now: float, frozen: float = 0.0) -> None:
        """End what is overdue at `now` of the monotonic clock; the keeper of all calls says this every moment.

        What has become overdue while the process was `frozen`, for so many seconds, is given that time again.
        """
        due = self._due
        if due is None or now < due:
            return
        if frozen and self._aborted is None:
            with self._guard:
                if self._due == due:
                    self._due = due + frozen
            return
        with self._guard:
            self._due = None
            if self._aborted is not None:
                self._cut()
        self.abort(AbortReason.STALLED)

    def expect(self, seconds: float | None) -> None:
        """More must come within `seconds`, else the call has stalled; None while silence is no fault."""
        with self._guard:
            if self._aborted is None:
                self._due = None if seconds is None else monotonic() + seconds

    @contextmanager
    def shielded(self, grace: float) -> Iterator[None]:
        """Meanwhile a request that was sent in whole is cut only `grace` seconds after the call was ended.

        Its answer, which is due at once, says what there is to take back.
        """
        self._grace = grace
        try:
            yield
        finally:
            with self._guard:
                self._grace = self._due = None

    def pause(self, seconds: float) -> None:
        """Wait between two requests; over at once when the call is ended."""
        with self._guard:
            if self._aborted is not None or seconds <= 0:
                return
            self._bell = Lock()
            self._bell.acquire()
        self._bell.acquire(timeout=seconds)
        with self._guard:
            self._bell = None

    def hang_up(self) -> None:
        """End the exchange under way, though not the call; what has come of it can still be read."""
        with self._guard:
            self._cut()

    def end(self) -> None:
        """The call is over."""
        with self._guard:
            self._ended = True
            self.let_go()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Follow the call's connection; httpcore's `trace` extension tells every step.

        https://www.encode.io/httpcore/extensions/#trace
        """
        match event.partition(".")[2]:
            case "connect_tcp.complete":
                self._hold(info["return_value"].get_extra_info("socket"))
            case "start_tls.started":
                self._keep_spare()
            case "start_tls.complete":
                self._hold(info["return_value"].get_extra_info("socket"))
            case "start_tls.failed" | "response_closed.started":
                self.let_go()
            case "send_request_headers.started":
                self._posting = info["request"].method == b"POST"  # a proxy's CONNECT is not the request
                self._begun = self._begun or self._posting
            case "send_request_headers.failed" if self._posting:
                self._begun = self._sent  # they are written at once, or not at all
            case "send_request_body.complete":
                self._sent = self._sent or self._posting
            case "receive_response_headers.complete" if self.when_taken is not None and self._posting:
                _, status, *_ = info["return_value"]
                if 200 <= status < 300:
                    self.when_taken()

    def _hold(self, sock: Any) -> None:
        with self._guard:
            self._drop_spare()
            self._socket = sock
            if self._aborted is not None:
                self._cut()
        for option in KEEPALIVE:  # here and not in the pool's options: httpcore forgets those behind a proxy
            with suppress(OSError):
                sock.setsockopt(*option)

    def _keep_spare(self) -> None:
        """During a TLS handshake the socket changes hands, and is closed unannounced when that fails."""
        with self._guard, suppress(OSError):  # out of files: the handshake then ends by its own timeout
            self._spare = os.dup(self._socket.fileno())

    def let_go(self) -> None:
        """An exchange is over. Comes before its socket is closed, as the number may then be another's."""
        with self._guard:
            self._drop_spare()
            self._socket = None

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare)

    def _cut(self) -> None:
        if self._spare is not None:
            _shut_down(self._spare)
        elif self._socket is not None:
            _shut_down(self._socket.fileno())


def _shut_down(number: int) -> None:
    if number < 0:
        return
    with suppress(OSError):  # it is no longer connected
        borrowed = _socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, number)
        try:
            borrowed.shutdown(socket.SHUT_RDWR)
        finally:
            borrowed.detach()
