"""Bodies as they leave: serialised quickly, and those of ended responses once.

An ended response never changes under its ETag. Whoever asks for one has been told by the rows that it is there, his,
and which ETag it has; so what was deleted or run again, by whichever process, is never found here.
"""

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fastapi import Response

ROOM_BYTES: Final = 8 * 1024 * 1024
"""Thousands of responses: who polls one has asked for it soon after its end, and seldom comes back."""
LARGEST_BYTES: Final = 1024 * 1024
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class Json(Response):
    """A body that is serialised already, under lower-case headers; without what Starlette asks of any other."""

    def __init__(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ]


class ResponseCache:
    """At most `ROOM_BYTES` of bodies, those asked for last."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0

    def get(self, response_id: str, etag: str) -> bytes | None:
        """The body of this response under this ETag."""
        body = self._bodies.get((response_id, etag))
        if body is not None:
            self._bodies.move_to_end((response_id, etag))
        return body

    def keep(self, response_id: str, etag: str, body: bytes) -> None:
        """Keep a body that will not change."""
        if len(body) > LARGEST_BYTES:
            return
        body = bytes(memoryview(body))  # a copy: what orjson returns holds up to ten times its length (decision 0005)
        before = self._bodies.pop((response_id, etag), b"")
        self._bodies[(response_id, etag)] = body
        self._bytes += len(body) - len(before)
        while self._bytes > ROOM_BYTES:
            _, dropped = self._bodies.popitem(last=False)
            self._bytes -= len(dropped)
