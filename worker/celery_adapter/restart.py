"""Starts `celery -A worker.main worker` again on the gevent pool.

What gevent patches must be patched before anything else is imported. Celery does so only if `-P gevent` is on its
command line. Without it the process replaces itself, as `worker.celery_adapter.command` if it can.
"""

import os
import sys
from typing import Final, NoReturn

import gevent.monkey

QUIET: Final = frozenset({"-q", "--quiet"})
APP: Final = frozenset({"-A", "--app", "worker.main", "--app=worker.main"})
DETACH: Final = frozenset({"-D", "--detach"})


def needs_gevent() -> bool:
    """Return whether this process is a worker that gevent has not patched."""
    return "worker" in sys.argv and not gevent.monkey.is_module_patched("socket")


def restart_on_gevent() -> NoReturn:
    """Replace this process by one on the gevent pool."""
    at = sys.argv.index("worker")
    before, after = sys.argv[1:at], sys.argv[at + 1 :]
    # only Celery's whole command line knows its other options, and how to detach
    if QUIET.union(APP).issuperset(before) and DETACH.isdisjoint(after):
        quiet = [each for each in before if each in QUIET]
        again = ["worker.celery_adapter.command", *quiet, *after]
    else:
        again = ["celery", *sys.argv[1:], "-P", "gevent"]
    os.execv(sys.executable, [sys.executable, "-m", *again])  # noqa: S606  # this program again
