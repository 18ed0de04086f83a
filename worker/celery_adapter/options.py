"""Options of a Celery worker: those that every worker has, and those that are refused at start."""

from typing import Any, Final

from celery import Celery

from jobs.broker_connection import CLUSTER_ERRORS, BrokerConnection, BrokerUnavailable, read_together
from jobs.broker_names import Names
from jobs.celery_app import HEADROOM
from worker.celery_adapter.pool import UninterruptedPool

ALONE: Final = {"without_mingle": True, "without_gossip": True}
"""No talk with other workers, which nothing here uses. At each start of the consumer and at each new connection to the
broker Celery would ask them for their state and wait a second, without taking messages."""


def set_options(worker: Any, app: Celery) -> None:
    """Set the options of a Celery worker that is being created."""
    worker.options.update(ALONE)
    worker.pool_cls = UninterruptedPool
    if worker.concurrency != app.conf.worker_concurrency:  # the operator's --concurrency, which counts calls
        worker.concurrency += HEADROOM


def refuse_idle_worker(worker: Any, app: Celery, names: Names) -> None:
    """Check that a Celery worker that is about to start would take work.

    A broker that does not answer is no reason to refuse.

    Raises:
        SystemExit: a queue would have no consumer, or the broker cannot keep one.
    """
    missing = [each for each in (names.calls, names.deliveries) if each not in app.amqp.queues.consume_from]
    if missing:
        raise SystemExit(f"-Q and -X leave no consumer for {' and '.join(missing)}: start the worker without them.")
    if worker.autoscale:
        raise SystemExit("--autoscale is not supported: BACKBURNER_WORKER_CONCURRENCY says how many calls run at once.")
    connection = BrokerConnection(app, keep=False)
    try:
        connection.use(lambda each: read_together(each, names.calls, names.deliveries))
    except BrokerUnavailable as error:
        if isinstance(error.__cause__, CLUSTER_ERRORS):
            raise SystemExit(
                "Redis Cluster cannot keep the queue: name one server, or Sentinels, in BACKBURNER_REDIS_URL."
            ) from None
