"""Identifiers: a prefix for the type, and 32 hex digits that sort by time.

The digits are a UUIDv7 (RFC 9562 section 5.7). Its first 48 bits are the unix time in milliseconds, so primary keys are
inserted in order and a range of times is a range of ids.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from uuid_utils import uuid7

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_ID: Final = 100


def new_id(prefix: str) -> str:
    """Return a new id such as `resp_0199…`. Later ids of the same process sort after earlier ones."""
    return f"{prefix}_{uuid7().hex}"


def first_id_at(prefix: str, moment: datetime) -> str:
    """Return the smallest id that can have been created at `moment` (to the millisecond)."""
    milliseconds = min(max((moment - EPOCH) // timedelta(milliseconds=1), 0), (1 << 48) - 1)
    return f"{prefix}_{milliseconds:012x}{0:020x}"


def may_be_id(value: object) -> bool:
    """Return whether it looks like one of our ids: a short word of ASCII letters, digits and underscores."""
    return isinstance(value, str) and len(value) <= LONGEST_ID and value.isascii() and value.isidentifier()
