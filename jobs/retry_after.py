"""The pause that an HTTP `Retry-After` asks for. Anything that is not one is no hint, and never an error."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Final

LONGEST_RETRY_AFTER: Final = timedelta(days=7)
LONGEST_VALUE: Final = 64
"""Characters; the longest date has 33."""
NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?|\.[0-9]+")


def retry_after(value: str, now: datetime, unit: timedelta = timedelta(seconds=1)) -> timedelta | None:
    """The pause that `value` asks for, in `unit` or as a date: 0 to `LONGEST_RETRY_AFTER`; None if it asks for none.

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
