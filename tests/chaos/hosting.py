"""Faults of hosting: a server answers, but takes no writes or no calls for a while."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import psycopg

from tests.chaos.locks import ALWAYS_WRITES
from tests.chaos.plan import PROVIDER_FAULTS, SHARE_OF_FAULTS
from tests.chaos.world import World
from tests.support import valkey_faults
from tests.support.postgres import PostgresServer
from tests.support.valkey import ValkeyServer

BROKER: Final[Mapping[str, Callable[[ValkeyServer], AbstractContextManager[None]]]] = {
    "demote": valkey_faults.replica,
    "fill": valkey_faults.full_memory,
    "relock": valkey_faults.another_password,
}
"""Faults by their verb in the plan."""


@contextmanager
def demoted(postgres: PostgresServer) -> Iterator[None]:
    """Make every new transaction read-only, as after a failover that left sessions open."""
    _let_write(postgres, "ALTER SYSTEM SET default_transaction_read_only = 'on'")
    try:
        yield
    finally:
        _let_write(postgres, "ALTER SYSTEM RESET default_transaction_read_only")


def _let_write(postgres: PostgresServer, statement: str) -> None:
    with psycopg.connect(postgres.url, autocommit=True, connect_timeout=10, options=ALWAYS_WRITES) as session:
        session.execute(statement.encode())
        session.execute("SELECT pg_reload_conf()")


@contextmanager
def lost(world: World) -> Iterator[None]:
    """Make the provider unreachable: reset old connections and refuse new ones."""
    link = world.links["provider"]
    link.refuse()
    try:
        yield
    finally:
        link.flow()


@contextmanager
def overloaded(world: World) -> Iterator[None]:
    """Let the provider refuse every call whose prompt does not direct the simulator."""
    world.change_provider(chaos=1.0, chaos_mix={"503": 1})
    try:
        yield
    finally:
        world.change_provider(chaos=SHARE_OF_FAULTS, chaos_mix=dict(PROVIDER_FAULTS))
