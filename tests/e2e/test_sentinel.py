"""Redis behind a Sentinel: jobs run over a failover, and notifications reach waiting clients."""

from pathlib import Path

import pytest

from tests.support.sentinel import Watched
from tests.support.stack import Stack
from tests.support.waiting import await_until

pytestmark = [pytest.mark.one_database, pytest.mark.long]


def test_jobs_run_before_and_after_a_failover(tmp_path: Path) -> None:
    with (
        Watched() as redis,
        Stack(f"sqlite:///{tmp_path}/backburner.db", redis.sentinel.url, tmp_path) as stack,
        stack.http() as http,
    ):
        stack.await_all(stack.submit_many(3, "[[sim: full delay=0]] Hello"), "completed", 30)
        redis.master.kill()
        meanwhile = stack.submit_many(3, "[[sim: full delay=0]] Hello")
        await_until(lambda: redis.sentinel.master_port() == redis.replica.port, 30, "no failover")
        stack.await_all(meanwhile, "completed", 30)
        later = stack.submit("[[sim: full delay=1]] Hello")
        assert http.get(f"/responses/{later}", params={"wait": 20}).json()["status"] == "completed"
        assert len(stack.calls()) == 7
