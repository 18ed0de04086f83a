"""`backburner worker --processes`: several workers share one backlog, and all of them stop."""

import signal
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.store.database import Database, database_now
from jobs.store.workers import WorkerRow, live_workers
from tests.cli.running import COMMAND, Running, environment, still_running
from tests.support.waiting import await_until

pytestmark = pytest.mark.long

PROCESSES = 2


def live(database: Database) -> list[WorkerRow]:
    with database.read() as tx:
        return live_workers(tx, database_now(tx), timedelta(seconds=10))


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGQUIT])
def test_all_workers_register_and_stop_on_a_signal(
    which: signal.Signals, database_url: str, valkey_url: str, tmp_path: Path
) -> None:
    settings = {"database_url": database_url, "redis_url": valkey_url, "data_dir": str(tmp_path)}
    command = (*COMMAND, "worker", "--processes", str(PROCESSES))
    database = Database(database_url, pool_size=1)
    with Running(command, tmp_path, environment(**settings)) as running:
        await_until(lambda: len(live(database)) == PROCESSES, 40, lambda: running.output)
        assert len({worker.pid for worker in live(database)}) == PROCESSES
        children = running.children()
        running.signal(which)
        assert running.exit_status() == 0
        assert not still_running(children)
        assert not live(database), "a worker did not sign off"
    database.close()
