"""Actions of a stranger who can reach the broker: Celery commands, messages with time limits, rubbish."""

import random
from collections.abc import Sequence
from typing import Any, Final

from celery import Celery
from redis.exceptions import RedisError

from jobs.broker_connection import BROKER_ERRORS
from jobs.celery_app import EXECUTE
from tests.support.names import NAMES
from tests.support.rubbish import COMMANDS, CONTROL_CHANNEL, RUBBISH
from tests.support.valkey import ValkeyServer
from worker.celery_adapter.remote_control import REFUSED

AT_ONCE: Final = 5
ANSWER_SECONDS: Final = 1.0
TIME_LIMIT: Final = 1


def command(app: Celery, rng: random.Random, job_ids: Sequence[str]) -> tuple[int, list[str]]:
    """Send some Celery commands to all workers, also about these jobs.

    Return the number of refusals, and each answer that was no refusal.
    """
    own: dict[str, dict[str, Any]] = {
        "revoke": {"task_id": [*job_ids], "terminate": True, "signal": "SIGKILL"},
        "terminate": {"task_id": [*job_ids], "signal": "SIGKILL"},
    }
    refusals, obeyed = 0, []
    try:
        for name in ["terminate", *rng.sample(sorted(COMMANDS), AT_ONCE)]:
            arguments = own.get(name, COMMANDS[name])
            answers = app.control.broadcast(name, arguments=arguments, reply=True, timeout=ANSWER_SECONDS) or []
            for host, answer in (pair for each in answers for pair in each.items()):
                refusals += answer == REFUSED
                obeyed += [] if answer == REFUSED else [f"{host} answered {name} with {answer}"]
    except BROKER_ERRORS:  # it is away, or its connection was lost
        pass
    return refusals, obeyed


def limit(app: Celery, job_ids: Sequence[str]) -> bool:
    """Send messages for these jobs with time limits that would end them within a second."""
    limits = {"time_limit": TIME_LIMIT, "soft_time_limit": TIME_LIMIT}
    try:
        for job_id in job_ids:
            app.send_task(EXECUTE, (job_id,), task_id=job_id, retry=False, **limits)
    except BROKER_ERRORS:
        return False
    return True


def litter(valkey: ValkeyServer, rng: random.Random) -> bool:
    """Put rubbish into the queues and among the commands."""
    try:
        with valkey.client() as client:
            for kind in rng.sample(sorted(RUBBISH), AT_ONCE):
                client.lpush(rng.choice((NAMES.calls, NAMES.deliveries)), *[RUBBISH[kind]] * rng.randint(1, AT_ONCE))
                client.publish(CONTROL_CHANNEL, RUBBISH[kind])
    except RedisError:
        return False
    return True


def mistype(valkey: ValkeyServer) -> bool:
    """Replace the job queue by a key of another type."""
    try:
        with valkey.client() as client, client.pipeline() as together:
            together.delete(NAMES.calls).set(NAMES.calls, "not a list").execute()
    except RedisError:
        return False
    return True


def put_right(valkey: ValkeyServer) -> None:
    """Remove that key."""
    try:
        with valkey.client() as client:
            if client.type(NAMES.calls) == b"string":
                client.delete(NAMES.calls)
    except RedisError:  # it is away, and comes back empty
        pass
