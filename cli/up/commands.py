"""The command lines of Backburner's parts, each in one place: what `up` starts, and what `api`, `worker`,
`migrate` and `simulate` become.

They are the field's usual commands, so what `up` does on one machine is what an operator does on many.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = (sys.executable, "-P")  # a directory called `api` or `worker` where we are started is not ours
# Celery warns root of messages that are pickles. Ours are not, and in a container root is nobody special.
ROOT_MAY = ("-W", "ignore:You're running the worker with superuser privileges:UserWarning")
API_GRACE_SECONDS = 5
WORKER_MARGIN_SECONDS = 15.0  # beyond its grace: it records what it hands back
API_IDLE_SECONDS = 75  # longer than clients keep an idle connection, so that none is closed under a request
API = (
    *("-m", "uvicorn"),
    *("--factory", "api.main:create_app"),
    *("--http", "api.http_protocol:Protocol"),
    *("--timeout-keep-alive", str(API_IDLE_SECONDS)),
    "--no-access-log",
)


def api(host: str, port: int) -> tuple[str, ...]:
    """The HTTP server. Held requests are let go on shutdown: their jobs are durable."""
    return (
        *PYTHON,
        *API,
        *("--app-dir", str(ROOT)),
        *("--host", host),
        *("--port", str(port)),
        *("--log-level", "warning"),
        *("--timeout-graceful-shutdown", str(API_GRACE_SECONDS)),
    )


def worker(extra: Sequence[str] = ()) -> tuple[str, ...]:
    """A Celery worker on the gevent pool; the settings say how many calls it holds."""
    return (
        *PYTHON,
        *ROOT_MAY,
        *("-m", "worker.celery_adapter.command"),
        "--quiet",
        *("--loglevel", "warning"),
        *("--without-gossip", "--without-mingle"),
        *extra,
    )


def workers(processes: int) -> tuple[str, ...]:
    """Several of them under one, which ends when they have ended."""
    return (*PYTHON, "-m", "cli.main", "worker", "--processes", str(processes))


def migrate() -> tuple[str, ...]:
    """Brings the database up to this release."""
    return (*PYTHON, "-m", "cli.main", "migrate")


def simulator(arguments: Sequence[str]) -> tuple[str, ...]:
    """The stand-in for a provider; it knows its own arguments."""
    return (*PYTHON, "-m", "simulator", *arguments)


def environment() -> Mapping[str, str]:
    """What every part needs in its environment so that it finds this very installation."""
    known = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{known}" if known else str(ROOT)}
