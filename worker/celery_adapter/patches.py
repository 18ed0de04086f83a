"""Replacements in kombu, gevent and Celery, applied before a worker starts."""

import time

import gevent
import kombu.utils.functional

from worker.celery_adapter import remote_control
from worker.celery_adapter.resolver import AddressResolver


def apply() -> None:
    """Patch this process."""
    # Importing gevent makes Celery's lazy package import kombu before anything is patched. The sleep that kombu then
    # holds blocks the whole process between two attempts to reach a broker that is away: no heartbeat, no answer read.
    kombu.utils.functional.sleep = time.sleep  # type: ignore[attr-defined]  # kombu does not export it
    # For each greenlet gevent would keep up to ten frames of the stack that spawned it: docs/decisions/0006.
    gevent.config.track_greenlet_tree = False
    gevent.config.resolver = AddressResolver
    remote_control.restrict()
