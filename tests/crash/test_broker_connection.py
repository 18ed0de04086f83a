"""The connection that sends messages, when its user is killed or the broker goes away."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from kombu.connection import Connection

from jobs.broker_connection import BrokerConnection, BrokerUnavailable
from jobs.celery_app import EXECUTE, create_celery
from jobs.settings import load_settings
from jobs.task_queue import TaskQueue
from tests.support.names import NAMES, get_names
from tests.support.server import HOST
from tests.support.tls_proxy import TlsProxy
from tests.support.valkey import ValkeyServer
from tests.support.valkey_faults import NO_WRITES
from tests.support.waiting import await_until


class Killed(BaseException):
    """Ends a greenlet. Nothing may handle it."""


@contextmanager
def connection_to(valkey: ValkeyServer, *, keep: bool = True) -> Iterator[BrokerConnection]:
    app = create_celery(load_settings(redis_url=valkey.url, data_dir="unused"))
    connection = BrokerConnection(app, keep=keep)
    yield connection
    connection.close()
    app.close()


def itself(connection: Connection) -> Connection:
    connection.default_channel.basic_get(NAMES.calls)
    return connection


def test_the_connection_is_kept(valkey: ValkeyServer) -> None:
    with connection_to(valkey) as connection:
        assert connection.use(itself) is connection.use(itself)


def test_a_connection_that_is_not_kept_is_made_for_each_use(valkey: ValkeyServer) -> None:
    with connection_to(valkey, keep=False) as connection:
        assert connection.use(itself) is not connection.use(itself)


def test_a_killed_user_leaves_no_reply_for_the_next(valkey: ValkeyServer) -> None:
    def be_killed(connection: Connection) -> None:
        used.append(itself(connection))
        raise Killed

    used: list[Connection] = []
    with connection_to(valkey) as connection:
        with pytest.raises(Killed):
            connection.use(be_killed)
        assert connection.use(itself) is not used[0]


def test_a_broker_that_is_away_is_left_alone_for_a_moment(valkey: ValkeyServer) -> None:
    with connection_to(valkey) as connection:
        connection.use(itself)
        valkey.stop()
        with pytest.raises(BrokerUnavailable) as raised:
            connection.use(itself)
        assert raised.value.__cause__ is not None
        valkey.start()
        with pytest.raises(BrokerUnavailable) as raised:
            connection.use(itself)
        assert raised.value.__cause__ is None


def test_a_job_is_enqueued_again_after_the_broker_lost_everything(valkey: ValkeyServer) -> None:
    app = create_celery(load_settings(redis_url=valkey.url, data_dir="unused"))
    task_queue = TaskQueue(app, get_names)
    assert task_queue.enqueue(["resp_1", "resp_2"]) == 2
    assert task_queue.depth() == 2
    valkey.flush()
    assert task_queue.depth() == 0
    assert task_queue.enqueue(["resp_1"])
    assert task_queue.depth() == 1
    with valkey.client() as client:
        assert EXECUTE.encode() in client.lrange(NAMES.calls, 0, -1)[0]
    task_queue.close()


@pytest.mark.parametrize(("code", "fault"), NO_WRITES.items(), ids=NO_WRITES)
def test_a_broker_that_takes_no_writes_says_why(
    fault: Callable[[ValkeyServer], AbstractContextManager[None]], code: str, valkey: ValkeyServer
) -> None:
    task_queue = TaskQueue(create_celery(load_settings(redis_url=valkey.url, data_dir="unused")), get_names)
    assert task_queue.unavailable_reason(NAMES) is None
    with fault(valkey):
        for _ in range(2):  # the second time nothing is sent, as the broker is left alone for a second
            assert f"it answers {code}" in str(task_queue.unavailable_reason(NAMES))
    await_until(lambda: task_queue.unavailable_reason(NAMES) is None, 5, "it does not take writes again")
    task_queue.close()


def test_a_broker_without_a_free_connection_says_so(valkey: ValkeyServer) -> None:
    task_queue = TaskQueue(create_celery(load_settings(redis_url=valkey.url, data_dir="unused")), get_names)
    with valkey.client() as client:
        client.config_set("maxclients", 1)
        assert "max number of clients reached" in str(task_queue.unavailable_reason(NAMES))
    task_queue.close()


def test_a_certificate_that_is_not_trusted_is_named(valkey: ValkeyServer) -> None:
    with TlsProxy(valkey.port) as connection:
        url = f"rediss://{HOST}:{connection.port}/0"
        task_queue = TaskQueue(create_celery(load_settings(redis_url=url, data_dir="unused")), get_names)
        assert str(task_queue.unavailable_reason(NAMES)).startswith("TLS with it fails: self-signed certificate")
        task_queue.close()
