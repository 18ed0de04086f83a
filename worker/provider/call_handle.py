"""The connection of one call, so that the call can be ended from outside at any moment.

Cancellation, deadlines and shutdown all shut down one socket. A thread that waits in `recv`, or a greenlet that waits
in its hub, then wakes at once and reads the end of the connection; nothing is polled. The operating system's socket is
shut down, below the objects of gevent and ssl: only the waiting side may use those.
"""

import _socket  # the socket type beneath the standard library's and gevent's
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Lock, RLock
from time import monotonic
from typing import Any, Final

from jobs.cancel_reason import AbortReason


def _keepalive() -> tuple[tuple[int, int, int], ...]:
    """Return socket options that keep an idle connection open in gateways, and that detect a dead one within 90 s.

    The shortest idle timeouts known of gateways are about 60 s. `TCP_USER_TIMEOUT` bounds what keepalive does not
    cover: a request that is never acknowledged. macOS has another name for the first option and lacks the last.
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
    """The connection of one call, or its connections one after the other. Each call has its own.

    `abort` may be called from any thread or greenlet, and from a signal handler. If there is no socket yet (a name is
    being resolved, a connection is being made), the call ends as soon as there is one, at the latest with its connect
    timeout. Nothing has been sent by then.
    """

    __slots__ = (
        "_abort_delay",
        "_aborted",
        "_handshake_fd",
        "_has_begun",
        "_has_ended",
        "_is_posting",
        "_lock",
        "_pause_lock",
        "_sent",
        "_socket",
        "_timeout_at",
        "on_success",
    )

    def __init__(self) -> None:
        self._lock = RLock()  # re-entrant: a signal handler may run in a thread that holds it
        self._aborted: AbortReason | None = None
        self._abort_delay: float | None = None
        self._handshake_fd: int | None = None
        self._has_begun = False
        self._has_ended = False
        self._is_posting = False
        self._pause_lock: Any = None
        self._sent = False
        self._socket: Any = None
        self._timeout_at: float | None = None
        self.on_success: Callable[[], None] | None = None
        """Called once the provider has begun to answer a POST with a 2xx status. Must not raise."""

    @property
    def aborted(self) -> AbortReason | None:
        """Reason for which this process ended the call; None while it has not."""
        return self._aborted

    @property
    def sent(self) -> bool:
        """True if the whole request was written to the network."""
        return self._sent

    @property
    def never_sent(self) -> bool:
        """True if no byte of a billed request was written. Only such a call certainly cost nothing.

        Part of a request is enough for a provider, or for a proxy before it, to act on. A handshake, a proxy's CONNECT
        and a request for an earlier response do not count.
        """
        return not self._has_begun

    def abort(self, reason: AbortReason) -> bool:
        """End the call. Return False if it was over, or aborted before: then the first reason stands."""
        with self._lock:
            if self._has_ended or self._aborted is not None:
                return False
            self._aborted = reason
            if self._pause_lock is not None:
                self._pause_lock.release()
            if self._abort_delay is not None and self._sent:
                self._timeout_at = monotonic() + self._abort_delay
            else:
                self._shut_down()
            return True

    def check_timeouts(self, now: float, frozen: float = 0.0) -> None:
        """End the call if its idle timeout, or its delayed abort, is due at `now` of the monotonic clock.

        `frozen` are the seconds for which the process was suspended. An idle timeout that passed meanwhile is extended
        by them.
        """
        timeout_at = self._timeout_at
        if timeout_at is None or now < timeout_at:
            return
        if frozen and self._aborted is None:
            with self._lock:
                if self._timeout_at == timeout_at:
                    self._timeout_at = timeout_at + frozen
            return
        with self._lock:
            self._timeout_at = None
            if self._aborted is not None:
                self._shut_down()
        self.abort(AbortReason.STALLED)

    def set_idle_timeout(self, seconds: float | None) -> None:
        """Abort the call as stalled unless this is called again within `seconds`; None allows any silence."""
        with self._lock:
            if self._aborted is None:
                self._timeout_at = None if seconds is None else monotonic() + seconds

    @contextmanager
    def delayed_abort(self, seconds: float) -> Iterator[None]:
        """Within the block, an abort shuts the connection down `seconds` later if the request was sent.

        The answer, which is due at once, names the response that is to be cancelled.
        """
        self._abort_delay = seconds
        try:
            yield
        finally:
            with self._lock:
                self._abort_delay = self._timeout_at = None

    def pause(self, seconds: float) -> None:
        """Wait between two requests. Return at once when the call is aborted."""
        with self._lock:
            if self._aborted is not None or seconds <= 0:
                return
            self._pause_lock = Lock()
            self._pause_lock.acquire()
        self._pause_lock.acquire(timeout=seconds)
        with self._lock:
            self._pause_lock = None

    def disconnect(self) -> None:
        """Shut down the connection without aborting the call. Bytes that have arrived can still be read."""
        with self._lock:
            self._shut_down()

    def end(self) -> None:
        """Mark the call as over; a later `abort` does nothing."""
        with self._lock:
            self._has_ended = True
            self.detach()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Follow the call's connection by the events of httpcore's `trace` extension.

        https://www.encode.io/httpcore/extensions/#trace
        """
        match event.partition(".")[2]:
            case "connect_tcp.complete":
                self._attach(info["return_value"].get_extra_info("socket"))
            case "start_tls.started":
                self._duplicate_socket()
            case "start_tls.complete":
                self._attach(info["return_value"].get_extra_info("socket"))
            case "start_tls.failed" | "response_closed.started":
                self.detach()
            case "send_request_headers.started":
                self._is_posting = info["request"].method == b"POST"  # a proxy's CONNECT is not the request
                self._has_begun = self._has_begun or self._is_posting
            case "send_request_headers.failed" if self._is_posting:
                self._has_begun = self._sent  # headers are written at once, or not at all
            case "send_request_body.complete":
                self._sent = self._sent or self._is_posting
            case "receive_response_headers.complete" if self.on_success is not None and self._is_posting:
                _, status, *_ = info["return_value"]
                if 200 <= status < 300:
                    self.on_success()

    def detach(self) -> None:
        """Forget the socket of an exchange that is over. Call it before the socket is closed: its number is reused."""
        with self._lock:
            self._close_duplicate()
            self._socket = None

    def _attach(self, sock: Any) -> None:
        with self._lock:
            self._close_duplicate()
            self._socket = sock
            if self._aborted is not None:
                self._shut_down()
        for option in KEEPALIVE:  # not in the pool's options: httpcore ignores those behind a proxy
            with suppress(OSError):
                sock.setsockopt(*option)

    def _duplicate_socket(self) -> None:
        """Duplicate the socket for a TLS handshake, which wraps it and closes it unseen if the handshake fails."""
        with self._lock, suppress(OSError):  # out of files: the handshake then ends by its own timeout
            self._handshake_fd = os.dup(self._socket.fileno())

    def _close_duplicate(self) -> None:
        fd, self._handshake_fd = self._handshake_fd, None
        if fd is not None:
            os.close(fd)

    def _shut_down(self) -> None:
        if self._handshake_fd is not None:
            _shut_down_fd(self._handshake_fd)
        elif self._socket is not None:
            _shut_down_fd(self._socket.fileno())


def _shut_down_fd(fd: int) -> None:
    if fd < 0:
        return
    with suppress(OSError):  # it is no longer connected
        borrowed = _socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
        try:
            borrowed.shutdown(socket.SHUT_RDWR)
        finally:
            borrowed.detach()
