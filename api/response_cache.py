"""Cache of the rendered bodies of ended responses.

The body of an ended response never changes under its ETag. A poll reads the row's summary first, so a response that was
deleted, belongs to another key or was run again by any process is never served from here.
"""

from collections import OrderedDict
from typing import Final

ROOM_BYTES: Final = 8 * 1024 * 1024
"""Room for thousands of responses: most clients fetch a response soon after its end, and seldom again."""
LARGEST_BYTES: Final = 1024 * 1024


class ResponseCache:
    """The bodies used last, `ROOM_BYTES` at most."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0

    def get(self, response_id: str, etag: str) -> bytes | None:
        """Return the body of this response under this ETag."""
        body = self._bodies.get((response_id, etag))
        if body is not None:
            self._bodies.move_to_end((response_id, etag))
        return body

    def keep(self, response_id: str, etag: str, body: bytes) -> None:
        """Keep the body of an ended response."""
        if len(body) > LARGEST_BYTES:
            return
        body = bytes(memoryview(body))  # a copy: orjson's bytes occupy up to ten times their length (decision 0005)
        before = self._bodies.pop((response_id, etag), b"")
        self._bodies[(response_id, etag)] = body
        self._bytes += len(body) - len(before)
        while self._bytes > ROOM_BYTES:
            _, dropped = self._bodies.popitem(last=False)
            self._bytes -= len(dropped)
