"""The line over which bells are rung, when the one who uses it is ended, or the broker goes."""

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
from tests.support.tls_proxy import TlsLine
from tests.support.valkey import ValkeyServer
from tests.support.valkey_faults import NO_WRITES
from tests.support.waiting import await_until


class Killed(BaseException):
    """What ends a greenlet; nobody is to handle it."""


@contextmanager
def line_to(valkey: ValkeyServer, *, keep: bool = True) -> Iterator[BrokerConnection]:
    app = create_celery(load_settings(redis_url=valkey.url, data_dir="unused"))
    line = BrokerConnection(app, keep=keep)
    yield line
    line.close()
    app.close()


def itself(connection: Connection) -> Connection:
    connection.default_channel.basic_get(NAMES.calls)
    return connection


def test_it_is_kept(valkey: ValkeyServer) -> None:
    with line_to(valkey) as line:
        assert line.use(itself) is line.use(itself)


def test_one_that_is_not_to_be_kept_is_made_for_each_use(valkey: ValkeyServer) -> None:
    with line_to(valkey, keep=False) as line:
        assert line.use(itself) is not line.use(itself)


def test_who_is_killed_over_it_leaves_no_answer_for_the_next(valkey: ValkeyServer) -> None:
    def be_killed(connection: Connection) -> None:
        used.append(itself(connection))
        raise Killed

    used: list[Connection] = []
    with line_to(valkey) as line:
        with pytest.raises(Killed):
            line.use(be_killed)
        assert line.use(itself) is not used[0]


def test_a_broker_that_is_away_is_left_alone_for_a_moment(valkey: ValkeyServer) -> None:
    with line_to(valkey) as line:
        line.use(itself)
        valkey.stop()
        with pytest.raises(BrokerUnavailable) as told:
            line.use(itself)
        assert told.value.__cause__ is not None
        valkey.start()
        with pytest.raises(BrokerUnavailable) as told:
            line.use(itself)
        assert told.value.__cause__ is None


def test_what_was_rung_before_a_broker_lost_everything_is_rung_again(valkey: ValkeyServer) -> None:
    app = create_celery(load_settings(redis_url=valkey.url, data_dir="unused"))
    message = TaskQueue(app, get_names)
    assert message.enqueue(["resp_1", "resp_2"]) == 2
    assert message.depth() == 2
    valkey.flush()
    assert message.depth() == 0
    assert message.enqueue(["resp_1"])
    assert message.depth() == 1
    with valkey.client() as client:
        assert EXECUTE.encode() in client.lrange(NAMES.calls, 0, -1)[0]
    message.close()


@pytest.mark.parametrize(("code", "fault"), NO_WRITES.items(), ids=NO_WRITES)
def test_a_broker_that_takes_no_writes_says_why(
    fault: Callable[[ValkeyServer], AbstractContextManager[None]], code: str, valkey: ValkeyServer
) -> None:
    task_queue = TaskQueue(create_celery(load_settings(redis_url=valkey.url, data_dir="unused")), get_names)
    assert task_queue.unavailable_reason(NAMES) is None
    with fault(valkey):
        for _ in range(2):  # the second asks nobody, as the broker is left alone for a second
            assert f"it answers {code}" in str(task_queue.unavailable_reason(NAMES))
    await_until(lambda: task_queue.unavailable_reason(NAMES) is None, 5, "it does not take writes again")
    task_queue.close()


def test_one_with_no_connection_to_spare_says_so(valkey: ValkeyServer) -> None:
    task_queue = TaskQueue(create_celery(load_settings(redis_url=valkey.url, data_dir="unused")), get_names)
    with valkey.client() as client:
        client.config_set("maxclients", 1)
        assert "max number of clients reached" in str(task_queue.unavailable_reason(NAMES))
    task_queue.close()


def test_a_certificate_that_nobody_vouches_for_is_named(valkey: ValkeyServer) -> None:
    with TlsLine(valkey.port) as line:
        url = f"rediss://{HOST}:{line.port}/0"
        task_queue = TaskQueue(create_celery(load_settings(redis_url=url, data_dir="unused")), get_names)
        assert str(task_queue.unavailable_reason(NAMES)).startswith("TLS with it fails: self-signed certificate")
        task_queue.close()
