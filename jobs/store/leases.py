"""Leases: named rights that one holder has until a moment, as to do a periodic task for all workers.

On PostgreSQL a lease is taken in one statement, which is a transaction by itself, sets its own limits and goes by the
server's clock: one round trip instead of four.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Interval, Select, String, bindparam, func, or_, select, true
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from jobs.store import schema
from jobs.store.column_types import UtcDateTime
from jobs.store.database import Database, database_now

_NOW: Final = func.clock_timestamp()
_LIMITS: Final = select(
    func.set_config("lock_timeout", "1s", true()).label("lock"),
    func.set_config("synchronous_commit", "off", true()).label("sync"),
).cte("limits")


def take_lease(tx: Connection, name: str, holder: str, now: datetime, length: timedelta) -> bool:
    """Take or renew the lease called `name`; return False if another holder has it.

    A lease that would run for far longer than `length` was taken before the clock was set back, and counts as expired.
    """
    values = {"of_name": name, "by_holder": holder, "at": now, "until": now + length, "too_late": now + 2 * length}
    return tx.execute(_TAKE[tx.dialect.name], values).first() is not None


def take_lease_now(database: Database, name: str, holder: str, length: timedelta, *, within: float) -> bool:
    """Take or renew a lease as `take_lease` does, at the database's time. It may be lost if PostgreSQL crashes.

    Raises:
        SQLAlchemyError: it failed, or took longer than `within` seconds.
    """
    if database.is_sqlite:
        with database.begin(within=within, durable=False) as tx:
            return take_lease(tx, name, holder, database_now(tx), length)
    values = {"of_name": name, "by_holder": holder, "length": length, "far_off": 2 * length}
    with database.read(within=within) as tx:
        return tx.execute(_TAKE_NOW, values).first() is not None


def lease_left(tx: Connection, name: str, holder: str) -> timedelta:
    """Return the time for which another holder has the lease called `name`; zero or less if `holder` may take it."""
    asked: dict[str, Any] = {"of_name": name, "not_of": holder}
    if tx.dialect.name == "sqlite":
        asked["at"] = database_now(tx)
    found = tx.execute(_OF_ANOTHER[tx.dialect.name], asked).one_or_none()
    return timedelta(0) if found is None else found.expires_at - found.now


def _take(dialect: Any) -> ReturningInsert[Any]:
    row = schema.leases.c
    values = {"holder": bindparam("by_holder"), "expires_at": bindparam("until", type_=row.expires_at.type)}
    taking = dialect.insert(schema.leases).values(name=bindparam("of_name"), **values)
    return _if_free(taking, values, now=bindparam("at"), too_late=bindparam("too_late"))


def _take_now() -> ReturningInsert[Any]:
    row, length = schema.leases.c, bindparam("length", type_=Interval)
    values = select(bindparam("of_name", type_=String), bindparam("by_holder", type_=String), _NOW + length)
    taking = postgresql.insert(schema.leases).from_select(
        [row.name, row.holder, row.expires_at], values.select_from(_LIMITS)
    )
    taken = {"holder": taking.excluded.holder, "expires_at": taking.excluded.expires_at}
    return _if_free(taking, taken, now=_NOW, too_late=_NOW + bindparam("far_off", type_=Interval))


def _if_free(taking: Any, values: dict[str, Any], *, now: Any, too_late: Any) -> ReturningInsert[Any]:
    row = schema.leases.c
    free = or_(row.holder == values["holder"], row.expires_at <= now, row.expires_at > too_late)
    update: ReturningInsert[Any] = taking.on_conflict_do_update(
        index_elements=[row.name], set_=values, where=free
    ).returning(row.name)
    return update


def _of_another(now: ColumnElement[datetime]) -> Select[Any]:
    row = schema.leases.c
    return select(row.expires_at, now.label("now")).where(
        row.name == bindparam("of_name"), row.holder != bindparam("not_of")
    )


_TAKE: Final = {"postgresql": _take(postgresql), "sqlite": _take(sqlite)}
_TAKE_NOW: Final = _take_now()
_OF_ANOTHER: Final = {
    "postgresql": _of_another(func.clock_timestamp(type_=UtcDateTime)),
    "sqlite": _of_another(bindparam("at", type_=UtcDateTime)),
}
