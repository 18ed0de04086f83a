"""The broker's users: strangers are refused, Flower can only watch, Backburner reaches only its own keys."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ResponseError
from redis.retry import Retry

from jobs.celery_app import create_celery
from jobs.settings import Settings, load_settings
from jobs.task_queue import TaskQueue
from tests.compose.broker import ComposeValkey
from tests.compose.composefile import DOTENV, load
from tests.support.names import NAMES, get_names
from tests.support.server import HOST

FLOWER, BACKBURNER = "flower", "backburner"
PASSWORDS = {BACKBURNER: DOTENV["REDIS_PASSWORD"], FLOWER: DOTENV["FLOWER_REDIS_PASSWORD"]}
REFUSED = "(?i)no permissions"
SERVER_COMMANDS: list[tuple[Any, ...]] = [
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "dir", "/"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "x", "on", "nopass", "+@all"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("MONITOR",),
    ("SHUTDOWN",),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "LIST"),
    ("REPLICAOF", "203.0.113.1", "6379"),
    ("MODULE", "LIST"),
    ("SAVE",),
    ("FUNCTION", "LIST"),
    ("SCRIPT", "FLUSH"),
    ("SET", "somebody-elses", "x"),
    ("LPUSH", "somebody-elses", "x"),
    ("EVAL", "return redis.call('LPUSH', 'somebody-elses', 'x')", "0"),
    ("PUBLISH", "somebody-elses", "x"),
    ("PSUBSCRIBE", "*"),
]
BACKBURNER_COMMANDS: list[tuple[Any, ...]] = [
    ("LPUSH", NAMES.calls, "x"),
    ("RPOP", NAMES.calls),
    ("BRPOP", NAMES.calls, "1"),
    ("DEL", NAMES.calls),
    ("LRANGE", NAMES.calls, "0", "-1"),
    ("LPUSH", NAMES.deliveries, "x"),
    ("SADD", f"_kombu.binding.{NAMES.calls}", "x"),
    ("DEL", f"_kombu.binding.{NAMES.calls}"),
    ("EVAL", f"return redis.call('LPUSH', '{NAMES.calls}', 'x')", "0"),
    *(("PUBLISH", channel, "resp_1 1 cancelled") for channel in (NAMES.stop, NAMES.ended, NAMES.wrote)),
    *(("SUBSCRIBE", channel) for channel in (NAMES.stop, NAMES.ended, NAMES.wrote)),
    ("PSUBSCRIBE", "backburner:*"),
]


@pytest.fixture(scope="module")
def broker() -> Iterator[ComposeValkey]:
    with ComposeValkey(load(DOTENV).services["redis"]) as valkey:
        yield valkey


def settings_of(broker: ComposeValkey, user: str) -> Settings:
    """Return the settings of a service with this user's password."""
    return load_settings(redis_url=f"redis://{user}@{HOST}:{broker.port}/0", redis_password=PASSWORDS[user])


def run(client: "redis.Redis", command: tuple[Any, ...]) -> Any:
    return client.execute_command(*command)  # type: ignore[no-untyped-call]  # the client's own


@pytest.mark.parametrize(
    ("user", "password"),
    [
        (None, None),
        (None, PASSWORDS[BACKBURNER]),
        ("default", ""),
        ("default", PASSWORDS[BACKBURNER]),
        (BACKBURNER, ""),
        (BACKBURNER, PASSWORDS[FLOWER]),
        (FLOWER, PASSWORDS[BACKBURNER]),
        (BACKBURNER, PASSWORDS[BACKBURNER][:-1]),
    ],
)
def test_a_stranger_cannot_even_ping(broker: ComposeValkey, user: str | None, password: str | None) -> None:
    retry = Retry(NoBackoff(), 0)  # by default it retries for seconds
    client = redis.Redis(host=HOST, port=broker.port, username=user, password=password, retry=retry)
    with client, pytest.raises(AuthenticationError):
        client.ping()


@pytest.mark.parametrize("user", PASSWORDS)
@pytest.mark.parametrize("command", SERVER_COMMANDS, ids=" ".join)
def test_no_user_can_administer_the_server_or_reach_foreign_keys(
    broker: ComposeValkey, user: str, command: tuple[Any, ...]
) -> None:
    with broker.as_user(user, PASSWORDS[user]) as client, pytest.raises(ResponseError, match=REFUSED):
        run(client, command)


@pytest.mark.parametrize("command", BACKBURNER_COMMANDS, ids=" ".join)
def test_flower_cannot_enqueue_a_job_stop_a_call_or_subscribe(broker: ComposeValkey, command: tuple[Any, ...]) -> None:
    with broker.as_user(FLOWER, PASSWORDS[FLOWER]) as client, pytest.raises(ResponseError, match=REFUSED):
        run(client, command)


def test_flower_reads_the_lengths_of_the_queues(broker: ComposeValkey) -> None:
    with broker.as_user(FLOWER, PASSWORDS[FLOWER]) as client:
        assert [client.llen(name) for name in (NAMES.calls, NAMES.deliveries, f"{NAMES.calls}\x06\x163")] == [0, 0, 0]


def test_a_message_is_enqueued_with_a_password_of_any_characters(broker: ComposeValkey) -> None:
    app = create_celery(settings_of(broker, BACKBURNER))
    task_queue = TaskQueue(app, get_names)
    assert task_queue.depth() == 0
    assert task_queue.unavailable_reason(NAMES) is None
    assert task_queue.enqueue(["resp_1"])
    assert task_queue.depth() == 1
    task_queue.close()
    with broker.as_user(BACKBURNER, PASSWORDS[BACKBURNER]) as client:
        client.delete(NAMES.calls)


def test_no_password_is_in_a_command_line_or_the_users_file(broker: ComposeValkey) -> None:
    users = (broker.directory / "users.acl").read_text("utf-8")
    assert (broker.directory / "users.acl").stat().st_mode & 0o077 == 0
    script = " ".join(broker._service.command)
    for password in PASSWORDS.values():
        assert password not in users
        assert password not in script
