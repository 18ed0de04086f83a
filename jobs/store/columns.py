"""Column types, and a condition, that mean the same on SQLite and PostgreSQL."""

import json
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    String,
    Text,
    TypeDecorator,
    bindparam,
    func,
)


class Moment(TypeDecorator[datetime]):
    """An aware UTC datetime; on SQLite fixed-width text, which sorts by time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive datetimes at the border."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime reached the database")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back what was put in, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JsonText(TypeDecorator[Any]):
    """JSON kept as the text that we wrote.

    Not `jsonb`: that reorders keys and refuses `\\u0000`, and what a client sent has to go on as it came.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Serialise."""
        return json_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Parse."""
        return None if value is None else json.loads(value)


def json_text(value: Any) -> str | None:
    """A value as `JsonText` keeps it; ASCII only, so that no encoding can refuse it."""
    return None if value is None else _ENCODER.encode(value)


_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))  # `json.dumps` makes one for each call


class ByteOrdered(TypeDecorator[str]):
    """An id or other ASCII text, compared byte by byte in every locale, so that its order is the order of time."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """PostgreSQL compares by the database's locale unless told otherwise; SQLite by bytes already."""
        return dialect.type_descriptor(String(collation="C") if dialect.name == "postgresql" else String())


def among(tx: Connection, column: ColumnElement[str], values: Collection[str]) -> ColumnElement[bool]:
    """Whether `column` is one of `values`, of which there may be thousands.

    On PostgreSQL they are one parameter: the statement's text, and so its plan, is the same for any number of them.
    """
    if tx.dialect.name == "postgresql":
        return column == func.any(bindparam(None, list(values), ARRAY(String)))
    return column.in_(values)
