"""DBOS: durable workflows in PostgreSQL, with a polled queue. The call is a step whose result DBOS stores."""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from dbos import DBOS, DBOSClient, DBOSConfig
from sqlalchemy import create_engine, text

from benchmarks.peers import work

NAME = "peer"
POLLING_SECONDS = float(os.environ.get("POLLING_SECONDS", "0.05"))
# The finished jobs, in the form of the other peers' table.
VIEW = """CREATE VIEW results AS
SELECT workflow_uuid AS name, to_timestamp(completed_at / 1000.0) AS finished_at
FROM dbos.workflow_status WHERE status = 'SUCCESS'"""
http = httpx.Client(**work.HTTP)


@DBOS.step()
def call(name: str, prompt: str) -> dict[str, Any]:
    """Call the provider."""
    return work.result((name, prompt), http.post(work.RESPONSES, **work.request((name, prompt))))


@DBOS.workflow(name="run")
def run(name: str, prompt: str) -> dict[str, Any]:
    """Run one job."""
    row: dict[str, Any] = call(name, prompt)
    return row


def launch() -> None:
    """Start DBOS, with a thread for each concurrent job and enough connections."""
    config: DBOSConfig = {
        "name": NAME,
        "system_database_url": work.DATABASE_URL,
        "sys_db_pool_size": work.CONNECTIONS,
        "max_executor_threads": work.CONCURRENCY,
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()
    DBOS.register_queue("calls", worker_concurrency=work.CONCURRENCY, polling_interval_sec=POLLING_SECONDS)


def setup() -> None:
    """Let DBOS create its tables, and create the view of results."""
    launch()
    DBOS.destroy()
    engine = create_engine(work.DATABASE_URL)
    with engine.begin() as tx:
        tx.execute(text(VIEW))
    engine.dispose()


@contextmanager
def queue() -> Iterator[work.Put]:
    """Yield a function that enqueues jobs in one transaction."""
    client = DBOSClient(system_database_url=work.DATABASE_URL, application_name=NAME)
    engine = create_engine(work.DATABASE_URL)

    def put(jobs: Sequence[work.Job]) -> None:
        with engine.begin() as tx:
            for name, prompt in jobs:
                options = {"queue_name": "calls", "workflow_name": "run", "workflow_id": name}
                client.enqueue_in_transaction(tx, options, name, prompt)

    yield put
    engine.dispose()
    client.destroy()


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        launch()
        print("worker ready", flush=True)
        threading.Event().wait()
    work.main(setup, queue)
