"""Makes a new connection to PostgreSQL fit for use, whatever pooler stands in between and whatever a role is given.

A pooler in transaction mode lends a server's session for one transaction, so nothing of ours may rest on a session: no
statement is prepared there. It gives itself away, as it tells its clients another process id than that of the session.
A session of our own prepares statements, which spares 15 to 39 % of a transaction's time, and is freed of the limits
that a role or a database sets, as ours are set for each use (`TimeLimits`).
"""

from dataclasses import dataclass
from typing import Any, Final

import psycopg
from sqlalchemy import URL

from jobs.database_url import THRESHOLD_IN_URL

LIMITS: Final = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",
    "idle_session_timeout",
)
OF_TRANSACTIONS: Final = ("statement_timeout", "transaction_timeout")
BEGIN_ALSO: Final = "backburner_begin_also"
"""In a connection's `info`, what each of its write transactions must set besides."""
IS_POOLED: Final = "backburner_is_pooled"
"""In a connection's `info`, whether a pooler lends its session for a transaction."""
UTF8: Final = "UTF8"
_ASK: Final = "SELECT pg_backend_pid(), current_setting('server_encoding'), " + ", ".join(
    f"coalesce(current_setting('{each}', true), '0')" for each in LIMITS
)


class WrongEncoding(psycopg.OperationalError):
    """The database cannot hold every text, so that an answer that was paid for may not be recorded."""

    def __init__(self, encoding: str, name: str) -> None:
        make = f"CREATE DATABASE \"{name}_utf8\" ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"
        super().__init__(f"its encoding is {encoding}, and it must be UTF8. Make one by: {make}")


@dataclass(frozen=True)
class NewConnections:
    """What a new connection to `url` is given."""

    url: URL

    def make_ready(self, driver: "psycopg.Connection[Any]", info: dict[Any, Any]) -> None:
        """Look at what a connection came with; one round trip, and one more where something must be set.

        Raises:
            WrongEncoding: the database is not in UTF8.
            psycopg.Error: it broke meanwhile.
        """
        ((pid, encoding, *limits),) = driver.execute(_ASK.encode())
        if encoding != UTF8:
            raise WrongEncoding(encoding, self.url.database or "backburner")
        is_pooled = info[IS_POOLED] = pid != driver.info.backend_pid
        if is_pooled and THRESHOLD_IN_URL not in self.url.query:
            driver.prepare_threshold = None
        asked_for = str(self.url.query.get("options", ""))
        strange = [
            name
            for name, value in zip(LIMITS, limits, strict=True)
            if value != "0" and name not in asked_for  # what the URL asks for is kept
        ]
        settings = {} if is_pooled else dict.fromkeys(strange, "0")
        if not (driver.info.parameter_status("DateStyle") or "ISO").startswith("ISO"):
            settings["DateStyle"] = "ISO"  # psycopg reads no other; poolers keep this setting for each client
        if settings:
            driver.execute("; ".join(f"SET {name} = '{value}'" for name, value in settings.items()).encode())
        if is_pooled:  # the other limits, each write transaction sets anyway
            info[BEGIN_ALSO] = "".join(f"; SET LOCAL {name} = 0" for name in strange if name in OF_TRANSACTIONS)
