"""The pause requested by an HTTP `Retry-After` or by a message. An invalid value is ignored, never an error."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from math import isfinite
from types import MappingProxyType
from typing import Final

LONGEST_RETRY_AFTER: Final = timedelta(days=7)
LONGEST_VALUE: Final = 64
"""Characters; the longest date has 33."""
NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?|\.[0-9]+")

_SECONDS: Final[Mapping[str, float]] = MappingProxyType({"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400})
_SPAN: Final = (
    r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s?"
    r"(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
)
_PART: Final = re.compile(_SPAN, re.IGNORECASE)
_IN_WORDS: Final = re.compile(
    rf"\b(?:try again|retry|wait)(?: after| in| for| at least)?:?\s({_SPAN}(?:,?\s?(?:and\s)?{_SPAN}){{0,4}})",
    re.IGNORECASE,
)


def pause_in_words(message: str) -> timedelta | None:
    """Return the pause requested by a provider's message: 0 to `LONGEST_RETRY_AFTER`; None if there is none.

    OpenAI writes `Please try again in 20s`, `6.379s`, `644ms` or `1m26.4s`; Azure `Please retry after 26 seconds`.
    """
    found = _IN_WORDS.search(message)
    if found is None:
        return None
    seconds = sum(float(number) * _seconds(unit.lower()) for number, unit in _PART.findall(found[1]))
    return timedelta(seconds=min(seconds, LONGEST_RETRY_AFTER.total_seconds()))


def _seconds(unit: str) -> float:
    return _SECONDS["ms" if unit.startswith(("ms", "milli")) else unit[0]]


def retry_after(value: str, now: datetime, unit: timedelta = timedelta(seconds=1)) -> timedelta | None:
    """Return the pause in `value`, a number of `unit` or a date: 0 to `LONGEST_RETRY_AFTER`; None if it is invalid.

    Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after, and fractions, which some servers send.
    """
    value = value.strip()
    if len(value) > LONGEST_VALUE or not value.isascii():
        return None
    if NUMBER.fullmatch(value):
        number = float(value)
        return min(number, LONGEST_RETRY_AFTER / unit) * unit if isfinite(number) else None
    return _until(value, now)


def _until(value: str, now: datetime) -> timedelta | None:
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        pause = moment - now
    except (ValueError, TypeError, OverflowError, LookupError, AttributeError):  # its parser raises any of them
        return None
    return min(max(pause, timedelta(0)), LONGEST_RETRY_AFTER)
