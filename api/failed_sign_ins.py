"""Logging of failed sign-ins: one line each, or a count if there are many. Never logs a secret."""

import asyncio
from typing import Final
from urllib.parse import quote

from fastapi import Request

from jobs.errors import KeyRefused
from jobs.telemetry import get_logger

LOGGED_EACH: Final = 20
"""Most lines within `WINDOW_SECONDS`; further failures are counted."""
WINDOW_SECONDS: Final = 10.0
LONGEST_PATH: Final = 200

log = get_logger(__name__)


class SignIns:
    """Logs the failed sign-ins of one event loop."""

    def __init__(self) -> None:
        self._in_window = 0
        self._window: asyncio.TimerHandle | None = None

    def failed(self, request: Request, refused: KeyRefused) -> None:
        """Log a request that was answered with 401.

        `key` is the start of the SHA-256 of the API key, as in the database (null if none was sent). `key_id` is set
        if the key was revoked.
        """
        if self._window is None:
            self._window = asyncio.get_running_loop().call_later(WINDOW_SECONDS, self._close)
        self._in_window += 1
        if self._in_window > LOGGED_EACH:
            return
        log.warning(
            "sign-in failed",
            reason=refused.reason,
            key=refused.sha256[:8] if refused.sha256 else None,
            key_id=refused.key_id,
            client=request.client.host if request.client else None,
            method=request.method,
            path=quote(request.url.path)[:LONGEST_PATH],
        )

    def stop(self) -> None:
        """Log the failures that were only counted so far."""
        if self._window is not None:
            self._window.cancel()
            self._close()

    def _close(self) -> None:
        self._window = None
        more, self._in_window = self._in_window - LOGGED_EACH, 0
        if more > 0:
            log.warning("more sign-ins failed", count=more, seconds=WINDOW_SECONDS)
