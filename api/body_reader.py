"""A request's body as bytes: read, decompressed where it came compressed, and never longer than the limit."""

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
"""Bytes that are decompressed at once: few enough that other requests do not notice."""
SENT_OVER_READ: Final = 2
"""Times the limit that a compressed body may be sent: data that does not shrink grows a little."""
MOST_MEMBERS: Final = 16
"""Each member of a gzip body costs a decompressor, and an empty one takes 20 bytes."""
ZLIB_WINDOW: Final = zlib.MAX_WBITS
GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
RAW_WINDOW: Final = -zlib.MAX_WBITS


async def read_request_body(request: Request, limit: int) -> bytes:
    """The request's body, decompressed.

    Raises:
        EncodingUnsupported: it is compressed in a way that this server does not know.
        RequestInvalid: what is compressed in it is broken, or ends too early.
        RequestTooLarge: it is longer than `limit` bytes; no more than that is ever held.
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
    """Whether a number is larger than `limit`. It may have any number of digits; `int` refuses more than 4,300."""
    digits = digits.lstrip("0")
    return len(digits) > len(str(limit)) or int(digits or "0") > limit


def _encoding(request: Request) -> str | None:
    """The one way in which the body is compressed, or None."""
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
    """The decompressor of one body. A body of no bytes at all is empty, whatever its header says."""

    def __init__(self, encoding: str) -> None:
        self._is_gzip = encoding in GZIP
        self._inside: zlib._Decompress | None = None
        self._members = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that `data` holds.

        Raises:
            RequestInvalid: it is broken.
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
        """Check that nothing is missing.

        Raises:
            RequestInvalid: something is.
        """
        if self._inside is not None:
            raise _broken("it ends too early")

    def _window(self, first: int) -> int:
        if self._members >= (MOST_MEMBERS if self._is_gzip else 1):
            raise _broken("something follows its end" if not self._is_gzip else f"it has over {MOST_MEMBERS} members")
        if self._is_gzip:
            return GZIP_WINDOW
        # 'deflate' means zlib's format; some clients send what is inside it alone, which no such byte begins
        return ZLIB_WINDOW if first & 0x0F == zlib.DEFLATED else RAW_WINDOW


def _broken(how: str) -> RequestInvalid:
    return RequestInvalid(f"The body could not be decompressed as '{HEADER}' says: {how}.", HEADER, "invalid_value")


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request is larger than this server takes ({limit} bytes).")
