"""The network as httpcore sees it, so that a call holds little while it waits for more of a body.

h11 and httpcore each keep what they gave out last until more comes, which amid a stream may take minutes: of ten
thousand streams that is 27 MB (decision 0080). So of what is read at once the end is given out apart, and as that is
there already nobody waits for it.
"""

import ssl
from typing import Any, Final

import httpcore

LARGE_BYTES: Final = 512
"""What is read at once may be kept up to this length; most pieces of a text that is being written are shorter."""
END_BYTES: Final = 16
"""Longer than what ends an event and a chunk, of which h11 would give nothing out."""
UNREAD: Final = "unread"
"""What to ask a connection for, to know whether something that has come is yet to be given out."""


class BriefBackend(httpcore.SyncBackend):
    """The usual network, read briefly."""

    def connect_tcp(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        """As httpcore connects."""
        return BriefStream(super().connect_tcp(*args, **options))


class BriefStream(httpcore.NetworkStream):
    """A connection whose last piece read is short."""

    __slots__ = ("_end", "_stream")

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._end = b""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What came, or the end of what came before."""
        if self._end:
            end, self._end = self._end, b""
            return end
        read = self._stream.read(max_bytes, timeout)
        if len(read) <= LARGE_BYTES:
            return read
        self._end = read[-END_BYTES:]
        return read[:-END_BYTES]

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As httpcore writes."""
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        """As httpcore closes."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """The same connection, encrypted; nothing is held back, as a server says nothing before its client does."""
        return BriefStream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """What httpcore tells, and `UNREAD`."""
        return bool(self._end) if info == UNREAD else self._stream.get_extra_info(info)
