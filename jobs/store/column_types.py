"""Column types and a condition that behave the same on SQLite and PostgreSQL."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Self

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    DateTime,
    Dialect,
    String,
    Text,
    TypeDecorator,
    bindparam,
    func,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from jobs.encoding import from_json, to_text


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime. SQLite stores it as text of a fixed width, which sorts by time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive datetime."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime reached the database")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JsonText(TypeDecorator[Any]):
    """JSON stored as text.

    `jsonb` would reorder keys and refuse `\\u0000`, but a client's request has to be passed on unchanged.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Serialise the value."""
        return None if value is None else to_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Parse the value."""
        return None if value is None else from_json(value)


class AsciiId(TypeDecorator[str]):
    """An id or other ASCII text, compared byte by byte in every locale. Ids therefore sort by time."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Return text that PostgreSQL compares by bytes, not by the database's locale. SQLite always does."""
        return dialect.type_descriptor(String(collation="C") if dialect.name == "postgresql" else String())


class Texts(TypeDecorator[Collection[str]]):
    """Any number of texts as one parameter: an array on PostgreSQL, JSON on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Return the type of the driver's parameter."""
        return dialect.type_descriptor(ARRAY(String) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Collection[str] | None, dialect: Dialect) -> Any:
        """Return the texts in the driver's form."""
        if value is None:
            return None
        return list(value) if dialect.name == "postgresql" else to_text(list(value))


def any_of(column: ColumnElement[str], texts: str | Collection[str]) -> ColumnElement[bool]:
    """Return the condition that `column` is one of `texts`, or of those in the parameter with this name.

    The texts are one parameter, so the statement and its plan stay the same for any number of them, even thousands.
    """
    given = bindparam(texts, type_=Texts) if isinstance(texts, str) else bindparam(None, texts, Texts)
    return _AnyOf(column, given)


class _AnyOf(FunctionElement[bool]):
    inherit_cache = True
    type = Boolean()
    name = "any_of"

    def self_group(self, against: Any = None) -> Self:
        """Return the condition itself. SQLite would compare it with 1, for which it uses no index."""
        return self


@compiles(_AnyOf, "postgresql")
def _any_of_array(element: _AnyOf, compiler: SQLCompiler, **options: Any) -> str:
    column, texts = element.clauses
    return compiler.process(column == func.any(texts), **options)


@compiles(_AnyOf, "sqlite")
def _any_of_json(element: _AnyOf, compiler: SQLCompiler, **options: Any) -> str:
    column, texts = element.clauses
    return compiler.process(column.in_(select(func.json_each(texts).table_valued("value").c.value)), **options)
