"""A TLS proxy in front of a plain server, like that of a managed Redis, with our own certificate for loopback."""

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self

from tests.support.server import HOST

CERTIFICATE = Path(__file__).parents[1] / "provider" / "loopback.pem"
"""Self-signed, so that only clients that trust it can verify it."""


class TlsProxy:
    """A proxy to the port `target` that counts connections and completed handshakes."""

    def __init__(self, target: int, certificate: Path = CERTIFICATE) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.present(certificate)
        self._socket = socket.create_server(("0.0.0.0", 0))  # for a host that the certificate does not name
        self.port: int = self._socket.getsockname()[1]
        self.came = 0
        self.taken = 0

    def present(self, certificate: Path) -> None:
        """Use this certificate from the next connection on."""
        self._context.load_cert_chain(certificate)

    def __enter__(self) -> Self:
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                self.came += 1
                Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, taken: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(taken, server_side=True) as client:
            self.taken += 1
            with socket.create_connection((HOST, self._target)) as server:
                back = Thread(target=_pass_on, args=(server, client), daemon=True)
                back.start()
                _pass_on(client, server)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError, ValueError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
