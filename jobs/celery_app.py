"""The Celery application that all processes share: its tasks, queues and broker options."""

import os
from typing import Any, Final

from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.transport.redis import Channel as RedisChannel

from jobs.amqp_url import is_amqps, tls_of_amqps, without_tls_options
from jobs.broker_connection import CONNECT_SECONDS, SteadyConnection
from jobs.broker_names import Names
from jobs.environment import remove_celery_variables
from jobs.redis_url import Sentinels, for_kombu, is_sentinel, tls_of
from jobs.settings import Settings

EXECUTE: Final = "backburner.execute"
DELIVER: Final = "backburner.deliver"
ANSWER_SECONDS: Final = 3
"""Timeout of a command to Redis. It is above the second for which kombu's own blocking read waits.

With the pause after a failure and the interval of the enqueuer, a lost message is sent again within 5 s.
"""
HALF_OPEN_SECONDS: Final = 2
"""Seconds beyond its own second after which kombu takes the connection of a blocking read for dead.

Behind a NAT that dropped the connection nothing else ends the read. With kombu's own 25 s a worker would receive no
message for 26 s.
"""
HEADROOM: Final = 8


def create_celery(settings: Settings) -> Celery:
    """Return the Celery application. A process that consumes messages also calls `configure_queues`."""
    remove_celery_variables(os.environ)  # Celery would prefer them to the settings below
    # Decision 0003: a message in hand when the broker dies is not put back; kombu can end the worker by trying.
    RedisChannel.do_restore = False
    url, tls = _broker_url(settings.broker)
    app = Celery("backburner", broker=url, set_as_current=False)
    app.amqp.Connection = SteadyConnection
    app.conf.update(
        accept_content=["json"],
        broker_channel_error_retry=True,  # an error reply from the broker must not end the worker
        broker_connection_max_retries=None,  # else a worker ends when the broker is unavailable for 100 s
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=CONNECT_SECONDS,
        broker_pool_limit=None,
        broker_transport_options=_transport_options(settings),
        broker_use_ssl=tls,
        result_backend_thread_safe=True,  # without a backend; else each task would create one of its own
        task_acks_late=False,
        task_create_missing_queues=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        worker_consumer="worker.celery_adapter.consumer:SlotConsumer",
        worker_concurrency=settings.worker_concurrency + HEADROOM,
        worker_disable_prefetch=holds_messages(settings.broker),
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=1,
    )
    return app


def configure_queues(app: Celery, names: Names) -> None:
    """Make a worker or Flower listen to this installation alone: its queues, control exchange and events."""
    queues = {EXECUTE: queue_named(names.calls), DELIVER: queue_named(names.deliveries)}
    app.conf.update(
        control_exchange=names.control,
        event_exchange=names.events,
        event_queue_prefix=names.events,
        task_default_queue=names.calls,
        task_queues=[*queues.values()],
        task_routes={task: {"queue": queue.name} for task, queue in queues.items()},
    )


def queue_named(name: str) -> Queue:
    """Return the broker's queue of this name.

    Webhook deliveries have a queue of their own, so that jobs and deliveries do not wait for each other.
    """
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


def holds_messages(url: str) -> bool:
    """Return whether this broker keeps a message until a slot is free. Any other broker delivers it at once."""
    return url.startswith(("redis", "sentinel", "unix"))


def _broker_url(url: str) -> tuple[str, dict[str, Any] | bool]:
    """Return the URL for Celery and its TLS options."""
    if is_amqps(url):
        return without_tls_options(url), tls_of_amqps(url)
    return for_kombu(url), tls_of(url) if holds_messages(url) else False


def _transport_options(settings: Settings) -> dict[str, Any]:
    if not holds_messages(settings.broker):
        return settings.broker_transport
    of_sentinels = Sentinels.from_url(settings.broker).kombu_options if is_sentinel(settings.broker) else {}
    return {
        "ack_emulation": False,  # the enqueuer resends a message that is lost with its worker long before kombu would
        "max_connections": settings.worker_concurrency + 100,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": ANSWER_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": HALF_OPEN_SECONDS,
        **of_sentinels,
        **settings.broker_transport,
    }
