"""Ports for what `up` starts: check the one that the operator set, or choose a free one."""

import errno
import secrets
import socket
from time import monotonic, sleep

from cli.errors import CommandFailed

# Below the range from which systems take the ports of outgoing connections. In that range, a client that keeps calling
# a dead server's port can be given this very port as its own, so that the restarted server cannot have it.
LOWEST_CHOSEN = 10_000
HIGHEST_CHOSEN = 32_000
MAX_ATTEMPTS = 200
RETRY_SECONDS = 0.05


def require_free_port(host: str, port: int, max_wait: float = 0) -> None:
    """Make sure that the API can listen at `host` and `port`.

    A port that is taken is retried for `max_wait` seconds, as a dying predecessor may still hold it.

    Raises:
        CommandFailed: it cannot listen there; the text names the setting to change.
    """
    give_up_at = monotonic() + max_wait
    while (error := _try_bind(host, port)) is not None:
        if error.errno != errno.EADDRINUSE:
            reason = error.strerror or str(error)
            setting = "PORT" if error.errno == errno.EACCES else "HOST"
            raise CommandFailed(f"BACKBURNER_{setting}: cannot listen on {host}:{port}: {reason}")
        if monotonic() >= give_up_at:
            raise CommandFailed(
                f"BACKBURNER_PORT: {host}:{port} is taken by another program; set BACKBURNER_PORT to a free port"
                " (0 lets Backburner choose one)"
            )
        sleep(RETRY_SECONDS)


def choose_port(host: str) -> int:
    """Return a port that is free on `host` at the moment.

    Raises:
        CommandFailed: `host` is not an address of this machine, or no port is free.
    """
    for _ in range(MAX_ATTEMPTS):
        port = LOWEST_CHOSEN + secrets.randbelow(HIGHEST_CHOSEN - LOWEST_CHOSEN)
        error = _try_bind(host, port)
        if error is None:
            return port
        if error.errno != errno.EADDRINUSE:
            require_free_port(host, port)
    raise CommandFailed(f"BACKBURNER_HOST: no free port found on {host}")


def _try_bind(host: str, port: int) -> OSError | None:
    """Return the error that prevents a server from listening at `host` and `port`. None if it could listen."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in addresses:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        return error
    return None
