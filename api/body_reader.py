"""Reading a request's body: decompressed if it is compressed, and limited in size."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

from fastapi import Request

from jobs.errors import EncodingUnsupported, RequestInvalid, RequestTooLarge

HEADER: Final = "Content-Encoding"
GZIP: Final = frozenset({"gzip", "x-gzip"})
DEFLATE: Final = "deflate"
ACCEPTED: Final = f"gzip, {DEFLATE}, identity"
PIECE: Final = 64 * 1024
"""Bytes decompressed at once: few enough not to delay other requests."""
SENT_OVER_READ: Final = 2
"""Size limit of a compressed body, as a multiple of the body limit: data that cannot be compressed grows a little."""
MOST_MEMBERS: Final = 16
"""Limit on the members of a gzip body: an empty one has only 20 bytes, but each needs a decompressor."""
ZLIB_WINDOW: Final = zlib.MAX_WBITS
GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
RAW_WINDOW: Final = -zlib.MAX_WBITS


async def read_request_body(request: Request, limit: int) -> bytes:
    """Return the request's body, decompressed.

    Raises:
        EncodingUnsupported: its encoding is not supported.
        RequestInvalid: its compressed data is damaged or incomplete.
        RequestTooLarge: it is longer than `limit` bytes; no more than that is kept in memory.
    """
    encoding = _encoding(request)
    sent_limit = limit if encoding is None else SENT_OVER_READ * limit
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and _exceeds(declared, sent_limit):
        raise _too_large(limit)
    sent = _sent(request, sent_limit, limit)
    pieces, size = [], 0
    async for piece in sent if encoding is None else _decompressed(sent, encoding):
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
    return b"".join(pieces)


def _exceeds(digits: str, limit: int) -> bool:
    """Return whether a number is larger than `limit`. It may have any length; `int` refuses more than 4,300 digits."""
    digits = digits.lstrip("0")
    return len(digits) > len(str(limit)) or int(digits or "0") > limit


def _encoding(request: Request) -> str | None:
    """Return the body's one compression, or None."""
    named = [each.strip().lower() for each in ",".join(request.headers.getlist(HEADER)).split(",")]
    encodings = [each for each in named if each not in {"", "identity"}]
    if not encodings:
        return None
    if len(encodings) == 1 and (encodings[0] == DEFLATE or encodings[0] in GZIP):
        return encodings[0]
    raise EncodingUnsupported(f"Unsupported '{HEADER}'. Supported values are: {ACCEPTED}; one at a time.", HEADER)


async def _sent(request: Request, most: int, limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise _too_large(limit)
        if chunk:
            yield chunk


async def _decompressed(sent: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    stream = _Stream(encoding)
    async for chunk in sent:
        for piece in stream.feed(chunk):
            yield piece
            await asyncio.sleep(0)
    stream.end()


class _Stream:
    """The decompressor of one body. A body without bytes is empty, whatever its header says."""

    def __init__(self, encoding: str) -> None:
        self._is_gzip = encoding in GZIP
        self._inside: zlib._Decompress | None = None
        self._members = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed pieces of `data`.

        Raises:
            RequestInvalid: the data is damaged.
        """
        holds_more = False
        while data or holds_more:
            if self._inside is None:
                self._inside = zlib.decompressobj(self._window(data[0]))
            try:
                piece = self._inside.decompress(data, PIECE)
            except zlib.error:
                raise _broken("it is not what the header says, or is damaged") from None
            data, holds_more = self._inside.unconsumed_tail, len(piece) == PIECE
            if self._inside.eof:
                data, holds_more = self._inside.unused_data, False
                self._inside = None
                self._members += 1
            yield piece

    def end(self) -> None:
        """Check that the data is complete.

        Raises:
            RequestInvalid: it ends too early.
        """
        if self._inside is not None:
            raise _broken("it ends too early")

    def _window(self, first: int) -> int:
        if self._members >= (MOST_MEMBERS if self._is_gzip else 1):
            raise _broken("something follows its end" if not self._is_gzip else f"it has over {MOST_MEMBERS} members")
        if self._is_gzip:
            return GZIP_WINDOW
        # 'deflate' means zlib's format; some clients send raw deflate data, which never starts with such a byte
        return ZLIB_WINDOW if first & 0x0F == zlib.DEFLATED else RAW_WINDOW


def _broken(reason: str) -> RequestInvalid:
    return RequestInvalid(f"The body could not be decompressed as '{HEADER}' says: {reason}.", HEADER, "invalid_value")


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request is larger than this server allows ({limit} bytes).")
