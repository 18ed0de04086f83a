"""Cache of the rendered bodies of ended responses.

The body of an ended response never changes under its ETag. A poll reads the row's summary first, so a response that was
deleted, belongs to another key or was run again by any process is never served from here.
"""

from typing import Final

from cachetools import LRUCache

ROOM_BYTES: Final = 8 * 1024 * 1024
"""Room for thousands of responses: most clients fetch a response soon after its end, and seldom again."""
LARGEST_BYTES: Final = 1024 * 1024


class ResponseCache:
    """The bodies used last, `ROOM_BYTES` at most."""

    def __init__(self) -> None:
        self._bodies: LRUCache[tuple[str, str], bytes] = LRUCache(ROOM_BYTES, getsizeof=len)

    def get(self, response_id: str, etag: str) -> bytes | None:
        """Return the body of this response under this ETag."""
        return self._bodies.get((response_id, etag))

    def keep(self, response_id: str, etag: str, body: bytes) -> None:
        """Keep the body of an ended response, unless it is larger than `LARGEST_BYTES`."""
        if len(body) <= LARGEST_BYTES:
            # a copy: orjson's bytes occupy up to ten times their length (decision 0004)
            self._bodies[response_id, etag] = bytes(memoryview(body))
