"""The start of a worker: reads the installation's names, and waits for a locked database."""

from collections.abc import Callable
from time import monotonic, sleep
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from jobs.broker_names import Names
from jobs.store.database import DATABASE_ERRORS
from jobs.store.installation import Installation
from jobs.telemetry import get_logger

MAX_WAIT_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 0.5

log = get_logger(__name__)


def read_names(installation: Installation) -> Names:
    """Return the names of this installation.

    Raises:
        SystemExit: the database does not answer, or lacks its migrations.
    """
    try:
        return installation.names()
    except SQLAlchemyError as error:
        reason = f"The installation's namespace cannot be read from the database ({type(error).__name__})"
        raise SystemExit(f"{reason}: check BACKBURNER_DATABASE_URL, and run `backburner migrate`.") from None


def retry_at_startup(write: Callable[[], None]) -> None:
    """Call `write` until it succeeds, for up to 30 s, while another session holds a lock or the database is away.

    Raises:
        SQLAlchemyError: it still fails after that.
    """
    until = monotonic() + MAX_WAIT_SECONDS
    while True:
        try:
            return write()
        except DATABASE_ERRORS as error:
            if monotonic() > until:
                raise
            log.warning("start waits for the database", error=type(error).__name__)
            sleep(RETRY_SECONDS)
