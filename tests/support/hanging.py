"""Endpoints that hang: connections to any loopback address are accepted but never answered."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Hanging:
    """One listener for all loopback addresses, each of which counts as a host."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("0.0.0.0", 0), backlog=1024)  # all of 127.0.0.0/8
        self.held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self.held.append(self._listener.accept()[0])

    def urls(self, count: int) -> list[str]:
        """Return the URLs of `count` hosts."""
        port = self._listener.getsockname()[1]
        return [f"http://127.0.{number // 250}.{2 + number % 250}:{port}/" for number in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends the accept under way, so that no connection comes after this
        self._thread.join()
        self._listener.close()
        for each in self.held:
            each.close()
