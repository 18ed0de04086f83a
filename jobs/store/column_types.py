"""Column types, and a condition, that mean the same on SQLite and PostgreSQL."""

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
        return None if value is None else to_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Parse."""
        return None if value is None else from_json(value)


class AsciiId(TypeDecorator[str]):
    """An id or other ASCII text, compared byte by byte in every locale, so that its order is the order of time."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """PostgreSQL compares by the database's locale unless told otherwise; SQLite by bytes already."""
        return dialect.type_descriptor(String(collation="C") if dialect.name == "postgresql" else String())


class Texts(TypeDecorator[Collection[str]]):
    """Any number of texts as one parameter: an array on PostgreSQL, JSON on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """The type that the driver is told."""
        return dialect.type_descriptor(ARRAY(String) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Collection[str] | None, dialect: Dialect) -> Any:
        """As the driver takes it."""
        if value is None:
            return None
        return list(value) if dialect.name == "postgresql" else to_text(list(value))


def any_of(column: ColumnElement[str], texts: str | Collection[str]) -> ColumnElement[bool]:
    """Whether `column` is one of `texts`, or of those that the parameter of this name holds; thousands, if need be.

    They are one parameter, so that the statement's text, and with it its plan, is the same for any number of them.
    """
    given = bindparam(texts, type_=Texts) if isinstance(texts, str) else bindparam(None, texts, Texts)
    return _AnyOf(column, given)


class _AnyOf(FunctionElement[bool]):
    inherit_cache = True
    type = Boolean()
    name = "any_of"

    def self_group(self, against: Any = None) -> Self:
        """As it is: on SQLite, whose booleans are numbers, no index serves what is compared with 1."""
        return self


@compiles(_AnyOf, "postgresql")
def _any_of_array(element: _AnyOf, compiler: SQLCompiler, **options: Any) -> str:
    column, texts = element.clauses
    return compiler.process(column == func.any(texts), **options)


@compiles(_AnyOf, "sqlite")
def _any_of_json(element: _AnyOf, compiler: SQLCompiler, **options: Any) -> str:
    column, texts = element.clauses
    return compiler.process(column.in_(select(func.json_each(texts).table_valued("value").c.value)), **options)
