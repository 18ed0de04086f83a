"""One call's hold on its connection, so that the call can be ended from outside at any moment.

Cancelling, deadlines and shutdown all come down to shutting one socket down. Whoever waits on it, a thread in `recv`
or a greenlet in its hub, then wakes at once and finds the connection at its end; nothing is polled. That is done to the
operating system's socket, below gevent's and ssl's own objects, which may be used by the waiting side alone.
"""

import _socket  # the socket type beneath the standard library's and gevent's
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from threading import RLock
from typing import Any, Final


class AbortReason(StrEnum):
    """Why a call was ended on our side."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"
    CALL_DEADLINE = "call_deadline"
    RELEASED = "released"
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


class Line:
    """The connection of one call; used for that one call.

    `abort` may be called from any thread or greenlet, and from a signal handler. Where there is no socket yet (names
    being resolved, a connection being made) the call ends as soon as there is one, at the latest with its connect
    timeout; nothing has been sent by then.
    """

    __slots__ = ("_aborted", "_ended", "_guard", "_posting", "_sent", "_socket", "_spare")

    def __init__(self) -> None:
        self._guard = RLock()  # re-entrant: a signal handler may come upon its own thread holding it
        self._aborted: AbortReason | None = None
        self._ended = False
        self._posting = False
        self._sent = False
        self._socket: Any = None
        self._spare: int | None = None

    @property
    def aborted(self) -> AbortReason | None:
        """Why the call was ended on our side; None while it was not."""
        return self._aborted

    @property
    def sent(self) -> bool:
        """Whether the whole request was handed to the network. Until then the provider cannot have run it."""
        return self._sent

    def abort(self, reason: AbortReason) -> bool:
        """End the call. False when it was over, or had been aborted before: the first reason stands."""
        with self._guard:
            if self._ended or self._aborted is not None:
                return False
            self._aborted = reason
            self._cut()
            return True

    def end(self) -> None:
        """Let go, for the call is over. Comes before the socket is closed, as its number may then be another's."""
        with self._guard:
            self._ended = True
            self._let_go()

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
                self._let_go()
            case "send_request_headers.started":
                self._posting = info["request"].method == b"POST"  # a proxy's CONNECT is not the request
            case "send_request_body.complete":
                self._sent = self._posting

    def _hold(self, sock: Any) -> None:
        with self._guard:
            self._drop_spare()
            self._socket = sock
            if self._aborted is not None:
                self._cut()
        for option in KEEPALIVE:  # here and not in the transport's options: httpcore forgets those behind a proxy
            with suppress(OSError):
                sock.setsockopt(*option)

    def _keep_spare(self) -> None:
        """During a TLS handshake the socket changes hands, and is closed unannounced when that fails."""
        with self._guard, suppress(OSError):  # out of files: the handshake then ends by its own timeout
            self._spare = os.dup(self._socket.fileno())

    def _let_go(self) -> None:
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
