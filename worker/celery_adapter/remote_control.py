"""Restricts Celery's remote control to what `celery inspect ping` and Flower read, and keeps its listener alive.

Anyone with access to the broker can broadcast commands to every worker, and Celery obeys: `shutdown` ends them,
`pool_shrink` and `cancel_consumer` leave them idle, `revoke` makes them drop jobs. Our workers are controlled by
signals and settings alone.
"""

import time
from functools import partial
from typing import Any, Final

from celery.worker import control, pidbox

from jobs.broker_connection import BROKER_ERRORS, MALFORMED
from jobs.telemetry import get_logger

READ: Final = frozenset(
    {"active", "active_queues", "conf", "ping", "registered", "reserved", "revoked", "scheduled", "stats"}
)
"""Commands that only read: `ping` for health checks, the others for Flower's pages."""
WATCH: Final = frozenset({"enable_events", "heartbeat"})
"""Commands by which Flower asks for events, which hold a response's id and times."""
ALLOWED: Final = READ | WATCH
LISTEN_AGAIN_AFTER: Final = 0.5
REFUSED: Final = {"error": "not allowed: Backburner's workers take no commands by remote control"}

log = get_logger(__name__)


def restrict() -> None:
    """Refuse all other commands in this process, and survive messages that break Celery's listener."""
    for name in control.Panel.data:
        if name not in ALLOWED:
            control.Panel.data[name] = partial(_refuse, name)
    pidbox.gPidbox = _ResilientPidbox


def _refuse(name: str, _state: object, **_arguments: object) -> dict[str, str]:
    log.warning("remote control refused", command=name)
    return REFUSED


class _ResilientPidbox(pidbox.gPidbox):  # type: ignore[misc]  # Celery has no types
    """Celery's listener for commands on the gevent pool, which a malformed message would otherwise end for good."""

    _run: object = None

    def loop(self, c: Any) -> None:
        """Listen until the consumer stops, or starts the loop anew."""
        run = self._run = object()
        while self._run is run:
            try:
                super().loop(c)
            except MALFORMED as error:
                log.warning("malformed command ignored", error=type(error).__name__)
                time.sleep(LISTEN_AGAIN_AFTER)
            except BROKER_ERRORS as error:
                log.warning("command subscription lost", error=type(error).__name__)
                time.sleep(LISTEN_AGAIN_AFTER)
            else:
                return

    def _do_reset(self, c: Any, connection: Any) -> None:
        """Check the subscription as kombu does on an event loop: a NAT that dropped the connection leaves it silent."""
        super()._do_reset(c, connection)
        listen = partial(type(connection).drain_events, connection)
        check = getattr(getattr(connection.transport, "cycle", None), "maybe_check_subclient_health", None)
        if check is None:
            return

        def listen_and_check(timeout: float) -> Any:
            try:
                return listen(timeout=timeout)
            finally:
                check()

        connection.drain_events = listen_and_check

    def on_stop(self) -> None:
        """End the loop, also while it only pauses."""
        self._run = None
        super().on_stop()
