"""`python -m worker.health`: checks for a container whether a worker of this host is alive and consumes its queues.

It reads the worker's heartbeat from the database. Celery's `inspect ping` asks over the broker instead: it reports a
worker as ill if the broker is slow, and as healthy if the worker answers commands but consumes no queue.
"""

import socket
import sys

from sqlalchemy.exc import SQLAlchemyError

from jobs.settings import load_settings
from jobs.store.database import Database, database_now
from jobs.store.workers import CALLS, live_workers


def main() -> int:
    """Print the problem, if there is one. Return the exit status: 1 with a problem, else 0."""
    problem = _problem()
    if problem is not None:
        sys.stdout.write(f"{problem}\n")
    return 0 if problem is None else 1


def _problem() -> str | None:
    settings = load_settings()
    database = Database(settings.database, pool_size=1)
    try:
        with database.read() as tx:
            alive = live_workers(tx, database_now(tx), settings.worker_timeout)
    except SQLAlchemyError as error:
        return f"The database does not answer ({type(error).__name__})."
    finally:
        database.close()
    ours = [each for each in alive if each.host == socket.gethostname()]
    if not ours:
        return "No worker of this host has sent a heartbeat lately."
    if not any(each.takes(CALLS) or each.draining_at is not None for each in ours):
        return "The worker of this host does not listen to the queue of jobs."
    return None


if __name__ == "__main__":
    sys.exit(main())
