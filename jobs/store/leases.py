"""Heartbeats and leases: what every worker writes every few seconds, whether it has work or not.

On PostgreSQL each is one statement, which is a transaction by itself and sets its own limits, and goes by the server's
clock. So it costs one round trip instead of four.
"""

from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Interval, String, bindparam, func, or_, select, true, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.dml import ReturningInsert

from jobs.clock import elapsed
from jobs.store import schema
from jobs.store.database import Database, database_now
from jobs.store.workers import Report, beat, heartbeat_values, take_lease

_NOW: Final = func.clock_timestamp()
_LIMITED: Final = select(func.set_config("lock_timeout", "1s", true())).scalar_subquery().is_not(None)
_LIMITS_OF_A_LEASE: Final = select(
    func.set_config("lock_timeout", "1s", true()).label("lock"),
    func.set_config("synchronous_commit", "off", true()).label("sync"),
).cte("limits")


def heartbeat_now(
    database: Database, worker_id: str, *, within: float, draining: bool = False, report: Report | None = None
) -> bool:
    """Say that a worker lives, and set our clock by the database's; False when it has been given up meanwhile.

    Raises:
        SQLAlchemyError: it did not work, or took longer than `within` seconds.
    """
    if database.is_sqlite:
        with database.begin(within=within) as tx:
            return beat(tx, worker_id, database.ask_time(tx), draining=draining, report=report)
    row = schema.workers.c
    values = heartbeat_values(_NOW, draining=draining, report=report)
    living = update(schema.workers).where(row.id == worker_id, row.ended_at.is_(None), _LIMITED)
    asked_at = elapsed()
    with database.read(within=within) as tx:
        moment = tx.execute(living.values(values).returning(_NOW)).scalar_one_or_none()
    if moment is not None:
        database.clock.learn(moment, asked_at)
    return moment is not None


def take_lease_now(database: Database, name: str, holder: str, length: timedelta, *, within: float) -> bool:
    """Take or renew a lease, as `take_lease` does. It may be lost if PostgreSQL crashes.

    Raises:
        SQLAlchemyError: it did not work, or took longer than `within` seconds.
    """
    if database.is_sqlite:
        with database.begin(within=within, durable=False) as tx:
            return take_lease(tx, name, holder, database_now(tx), length)
    asked = {"of_name": name, "by_holder": holder, "length": length, "far_off": 2 * length}
    with database.read(within=within) as tx:
        return tx.execute(_TAKING, asked).first() is not None


def _taking() -> ReturningInsert[Any]:
    row, length, far_off = schema.leases.c, bindparam("length", type_=Interval), bindparam("far_off", type_=Interval)
    taken = select(bindparam("of_name", type_=String), bindparam("by_holder", type_=String), _NOW + length).select_from(
        _LIMITS_OF_A_LEASE
    )
    taking = postgresql.insert(schema.leases).from_select([row.name, row.holder, row.expires_at], taken)
    free = or_(row.holder == taking.excluded.holder, row.expires_at <= _NOW, row.expires_at > _NOW + far_off)
    values = {"holder": taking.excluded.holder, "expires_at": taking.excluded.expires_at}
    return taking.on_conflict_do_update(index_elements=[row.name], set_=values, where=free).returning(row.name)


_TAKING: Final = _taking()
