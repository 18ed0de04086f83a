"""Ports for what `up` starts: asked for by the operator and free, or chosen by us."""

import errno
import secrets
import socket
from time import monotonic, sleep

from cli.errors import CommandFailed

# Below the range that systems give to outgoing connections: a client that keeps calling a dead server's port up there
# can be given that very port as its own and so take it away from the restarted server.
LOWEST_CHOSEN = 10_000
HIGHEST_CHOSEN = 32_000
TRIES = 200
RETRY_SECONDS = 0.05


def require_free_port(host: str, port: int, patience_seconds: float = 0) -> None:
    """Make sure that the API can listen at `host` and `port`; wait for a dying predecessor as long as told.

    Raises:
        CommandFailed: it cannot; the text names the setting to change.
    """
    give_up_at = monotonic() + patience_seconds
    while (problem := _why_not(host, port)) is not None:
        if problem.errno != errno.EADDRINUSE:
            reason = problem.strerror or str(problem)
            setting = "PORT" if problem.errno == errno.EACCES else "HOST"
            raise CommandFailed(f"BACKBURNER_{setting}: cannot listen on {host}:{port}: {reason}")
        if monotonic() >= give_up_at:
            raise CommandFailed(
                f"BACKBURNER_PORT: {host}:{port} is taken by another program; set BACKBURNER_PORT to a free port"
                " (0 lets Backburner choose one)"
            )
        sleep(RETRY_SECONDS)


def choose_port(host: str) -> int:
    """A port that is free on `host` at this moment.

    Raises:
        CommandFailed: `host` is no address of this machine, or nothing is free.
    """
    for _ in range(TRIES):
        port = LOWEST_CHOSEN + secrets.randbelow(HIGHEST_CHOSEN - LOWEST_CHOSEN)
        problem = _why_not(host, port)
        if problem is None:
            return port
        if problem.errno != errno.EADDRINUSE:
            require_free_port(host, port)
    raise CommandFailed(f"BACKBURNER_HOST: no free port found on {host}")


def _why_not(host: str, port: int) -> OSError | None:
    """What keeps a server from listening at `host` and `port`; None when nothing does."""
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
