"""JSON readers and writers: bytes for clients, text for the database and for providers.

A number that a double cannot hold stays as it was written: a schema may have a maximum of 96 bits.
"""

import json
import math
import re
from typing import Any, Final

import orjson
import pydantic_core

_DIGITS_OF_64_BITS: Final = 20
# Half of a surrogate pair, which no text here holds: requests with one are refused, and providers' texts are cleaned.
_MARK: Final = "\udc00"
_NUMBER: Final = r"(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_ASCII_MARK: Final = '"\\udc00'
_MARKED: Final = re.compile(rf'"\\udc00{_NUMBER}"')
_MARKED_IN_UNICODE: Final = re.compile(f'"{_MARK}{_NUMBER}"')
_LONGEST_EXPONENT: Final = 30
"""Digits. Far above any double's exponent, and far below one that takes long to compare."""


class ExactNumber:
    """A JSON number that neither a 64-bit integer nor a double can hold. It is written back unchanged."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExactNumber) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return self.text


def read_integer(digits: str) -> int | ExactNumber:
    """Return the integer if 64 bits can hold it. For `json.loads(parse_int=...)`."""
    if len(digits) <= _DIGITS_OF_64_BITS and -(2**63) <= (value := int(digits)) < 2**64:
        return value
    return ExactNumber(digits)


def read_decimal(digits: str) -> float | ExactNumber:
    """Return the double if it is exactly this number. For `json.loads(parse_float=...)`."""
    value = float(digits)
    return value if _is_same(repr(value), digits) else ExactNumber(digits)


def from_json(text: str | bytes) -> Any:
    """Parse JSON that we wrote or checked. Numbers stay exact: see `ExactNumber`.

    Raises:
        ValueError: it is not JSON.
    """
    return _DECODER.decode(text if isinstance(text, str) else text.decode())


class TooDeep(ValueError):
    """JSON that is nested too deeply to be read."""


def read_json(text: str | bytes) -> Any:
    """Read JSON from outside. A number that JSON does not have (NaN, 1e400) becomes None.

    Raises:
        TooDeep: it is nested too deeply.
        ValueError: it is not JSON.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_none)
    except RecursionError:
        raise TooDeep("the JSON is nested too deeply") from None


def read_first_json(text: str, start: int) -> Any:
    """Read the JSON value that begins at `start`, whatever follows it; raises as `read_json` does."""
    try:
        return _FOREIGN_DECODER.raw_decode(text, start)[0]
    except RecursionError:
        raise TooDeep("the JSON is nested too deeply") from None


def to_json(value: Any) -> bytes:
    """Return the value as JSON. NaN and infinity become null, and times ISO 8601.

    Raises:
        PydanticSerializationError: JSON cannot represent it.
    """
    try:
        return orjson.dumps(value, default=_fragment)
    except TypeError:  # integers above 64 bits, and deep nesting
        return pydantic_core.to_json(value, inf_nan_mode="null")


def to_text(value: Any, *, ascii_only: bool = True, spaced: bool = False) -> str:
    """Return the value as JSON text; by default without spaces, and in ASCII, which every encoding accepts.

    Raises:
        TypeError: JSON cannot represent it.
    """
    text = _ENCODERS[ascii_only, spaced].encode(value)
    if not ascii_only:
        return _MARKED_IN_UNICODE.sub(r"\1", text) if _MARK in text else text
    return _MARKED.sub(r"\1", text) if _ASCII_MARK in text else text


def _is_same(written: str, digits: str) -> bool:
    return written == digits or _parts(written) == _parts(digits)


def _parts(number: str) -> tuple[bool, str, int] | None:
    """Return sign, digits and exponent of a number, the same for each notation; None if it is not a number."""
    mantissa, _, exponent = number.lower().partition("e")
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    if not whole.isdecimal() or len(exponent) > _LONGEST_EXPONENT:
        return None
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return mantissa.startswith("-"), "", 0
    place = int(exponent or 0) - len(fraction) + len(digits) - len(significant)
    return mantissa.startswith("-"), significant, place


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _none(_constant: str) -> None:
    """Return None for a constant that JSON does not have."""


def _fragment(value: object) -> orjson.Fragment:
    if isinstance(value, ExactNumber):
        return orjson.Fragment(value.text)
    raise TypeError(f"JSON cannot represent a {type(value).__name__}")


def _mark(value: object) -> str:
    if isinstance(value, ExactNumber):
        return _MARK + value.text
    raise TypeError(f"JSON cannot represent a {type(value).__name__}")


# `json.dumps` and `json.loads` with arguments create one for each call
_DECODER: Final = json.JSONDecoder(parse_int=read_integer, parse_float=read_decimal)
_FOREIGN_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_none)
_ENCODERS: Final = {
    (ascii_only, spaced): json.JSONEncoder(
        separators=(", ", ": ") if spaced else (",", ":"), default=_mark, ensure_ascii=ascii_only
    )
    for ascii_only in (True, False)
    for spaced in (True, False)
}
