"""Refuses to start a worker that would live and take no work, with one sentence, and waits for a locked database."""

from collections.abc import Callable
from time import monotonic, sleep
from typing import Any, Final

from celery import Celery
from sqlalchemy.exc import SQLAlchemyError

from jobs.broker_connection import CLUSTER_ERRORS, BrokerConnection, BrokerUnavailable, read_together
from jobs.broker_names import Names
from jobs.store.database import DATABASE_ERRORS
from jobs.store.installation import Installation
from jobs.telemetry import get_logger

MAX_WAIT_SECONDS: Final = 30.0
AGAIN_SECONDS: Final = 0.5

log = get_logger(__name__)


def find_names(installation: Installation) -> Names:
    """Return the names of this installation.

    Raises:
        SystemExit: the database does not answer, or lacks its migrations.
    """
    try:
        return installation.names()
    except SQLAlchemyError as error:
        reason = f"The database does not tell the installation's namespace ({type(error).__name__})"
        raise SystemExit(f"{reason}: check BACKBURNER_DATABASE_URL, and run `backburner migrate`.") from None


def refuse_what_takes_nothing(controller: Any, app: Celery, names: Names) -> None:
    """Check the options of a Celery worker that is about to start, and its broker, if that answers.

    Raises:
        SystemExit: a queue would have no listener, or the broker cannot serve one.
    """
    unheard = [each for each in (names.calls, names.deliveries) if each not in app.amqp.queues.consume_from]
    if unheard:
        raise SystemExit(f"-Q and -X leave nobody to listen to {' and '.join(unheard)}: start the worker without them.")
    if controller.autoscale:
        raise SystemExit("--autoscale is not supported: BACKBURNER_WORKER_CONCURRENCY says how many calls run at once.")
    line = BrokerConnection(app, keep=False)
    try:
        line.use(lambda connection: read_together(connection, names.calls, names.deliveries))
    except BrokerUnavailable as away:
        if isinstance(away.__cause__, CLUSTER_ERRORS):
            raise SystemExit(
                "Redis Cluster cannot keep the queue: name one server, or Sentinels, in BACKBURNER_REDIS_URL."
            ) from None


def patiently(write: Callable[[], None]) -> None:
    """Do `write`, again and again while another session's lock is in the way, or the database away, for 30 s.

    Raises:
        SQLAlchemyError: it still is.
    """
    until = monotonic() + MAX_WAIT_SECONDS
    while True:
        try:
            return write()
        except DATABASE_ERRORS as error:
            if monotonic() > until:
                raise
            log.warning("start waits for the database", error=type(error).__name__)
            sleep(AGAIN_SECONDS)
