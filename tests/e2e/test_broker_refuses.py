"""A Redis that answers but takes no writes counts as away: no job fails, and no call is billed twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.doctor.local import check_broker, check_redis
from jobs.settings import load_settings
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.valkey_faults import NO_WRITES
from tests.support.waiting import await_until

pytestmark = pytest.mark.long


@pytest.mark.one_database
@pytest.mark.parametrize(("code", "fault"), NO_WRITES.items(), ids=NO_WRITES)
def test_everything_goes_on_by_itself(
    fault: Callable[[ValkeyServer], Any], code: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path) as stack:
        worker = stack.worker_processes[0]
        before = stack.submit_many(3, "[[sim: full delay=2.5]] Hello")
        stack.await_all(before, "in_progress", 20)
        with fault(valkey):
            during = stack.submit_many(5, "[[sim: full delay=0]] Hello")
            body = await_until(lambda: _unready(stack), 20, stack.logs)
            assert "broker" in body["missing"]
            assert code in body["reasons"]["broker"]
            settings = load_settings(redis_url=valkey.url, data_dir=str(tmp_path), namespace="backburner")
            assert any(code in each.message for each in (check_redis(valkey.url), check_broker(settings)))
            stack.await_all(before, "completed", 20)
        stack.await_all(during, "completed", 30)
        assert worker.popen.poll() is None, worker.output
        assert [len(stack.calls(job_id)) for job_id in (*before, *during)] == [1] * 8
        await_until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 200, 15, stack.logs)


def _unready(stack: Stack) -> Any:
    body = httpx.get(f"{stack.url}/readyz").json()
    return body if "broker" in body["reasons"] else None
