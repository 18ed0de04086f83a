"""Ports: the requested one is free or the error is clear, and a chosen one is free."""

import socket
import threading

import pytest

from cli.errors import CommandFailed
from cli.up.ports import HIGHEST_CHOSEN, LOWEST_CHOSEN, choose_port, require_free_port

LOOPBACK = "127.0.0.1"


def listening() -> socket.socket:
    return socket.create_server((LOOPBACK, 0))


def test_a_taken_port_is_reported_with_its_variable() -> None:
    with listening() as other:
        port = other.getsockname()[1]
        with pytest.raises(CommandFailed, match=f"BACKBURNER_PORT: {LOOPBACK}:{port} is taken"):
            require_free_port(LOOPBACK, port)


def test_a_port_of_a_dying_predecessor_is_retried() -> None:
    other = listening()
    port = other.getsockname()[1]
    leaving = threading.Timer(0.2, other.close)
    leaving.start()
    require_free_port(LOOPBACK, port, max_wait=10)
    leaving.join()


def test_a_port_with_connections_in_time_wait_is_free() -> None:
    with listening() as other:
        port = other.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)), other.accept()[0] as accepted:
            accepted.shutdown(socket.SHUT_RDWR)  # the side that closes first keeps the port in TIME_WAIT
    require_free_port(LOOPBACK, port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_a_host_that_is_not_ours_is_reported_with_its_variable(host: str) -> None:
    with pytest.raises(CommandFailed, match=f"BACKBURNER_HOST: cannot listen on {host}:"):
        choose_port(host)


def test_a_chosen_port_is_free_and_below_the_range_of_outgoing_connections() -> None:
    port = choose_port(LOOPBACK)
    assert LOWEST_CHOSEN <= port < HIGHEST_CHOSEN
    socket.create_server((LOOPBACK, port)).close()
