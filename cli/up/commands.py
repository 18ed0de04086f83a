"""The command line of each part: used by `up`, and by the commands `api`, `worker`, `migrate` and `simulate`.

They are the usual commands of uvicorn and Celery, so `up` runs on one machine what an operator runs on many.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = (sys.executable, "-P")  # do not import from a directory called `api` or `worker` in the working directory
# Celery warns root about pickled messages. Ours are not pickled, and in a container root has few rights.
NO_ROOT_WARNING = ("-W", "ignore:You're running the worker with superuser privileges:UserWarning")
API_GRACE_SECONDS = 5
WORKER_MARGIN_SECONDS = 15.0  # after its grace period it still has to record what it hands back
API_IDLE_SECONDS = 75  # longer than clients keep an idle connection, so that none is closed under a request
API = (
    *("-m", "uvicorn"),
    *("--factory", "api.main:create_app"),
    *("--http", "api.http_protocol:Protocol"),
    *("--timeout-keep-alive", str(API_IDLE_SECONDS)),
    "--no-access-log",
)


def api(host: str, port: int) -> tuple[str, ...]:
    """Return the command of the HTTP server. A shutdown ends held requests after 5 s; their jobs are durable."""
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
    """Return the command of a Celery worker. Its pool and concurrency come from the settings."""
    return (
        *PYTHON,
        *NO_ROOT_WARNING,
        *("-m", "worker.celery_adapter.command"),
        "--quiet",
        *("--loglevel", "warning"),
        *("--without-gossip", "--without-mingle"),
        *extra,
    )


def workers(processes: int) -> tuple[str, ...]:
    """Return the command of a process that runs several workers. It ends when they have ended."""
    return (*PYTHON, "-m", "cli.main", "worker", "--processes", str(processes))


def migrate() -> tuple[str, ...]:
    """Return the command that migrates the database to this release."""
    return (*PYTHON, "-m", "cli.main", "migrate")


def simulator(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the command of the provider simulator, which parses `arguments` itself."""
    return (*PYTHON, "-m", "simulator", *arguments)


def environment() -> Mapping[str, str]:
    """Return the variables with which every part imports this installation."""
    known = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{known}" if known else str(ROOT)}
