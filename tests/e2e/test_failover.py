"""A PostgreSQL is demoted during calls: each answer is recorded at its successor, and no call is billed again."""

from pathlib import Path

import httpx
import pytest

from tests.support.postgres import Databases, Primary, Standby, either
from tests.support.stack import Stack
from tests.support.waiting import await_until

pytestmark = pytest.mark.long

CALL_SECONDS = 4


def test_answers_are_recorded_at_the_successor(valkey_url: str, tmp_path: Path) -> None:
    with Primary() as primary:
        url = Databases(primary.url).migrated()
        with (
            Standby(primary) as standby,
            Stack(
                either(primary, standby, url), valkey_url, tmp_path, provider_flags=("--delay", str(CALL_SECONDS))
            ) as stack,
        ):
            jobs = stack.submit_many(8, "Hello")
            await_until(lambda: len(stack.calls()) == len(jobs), 20, stack.logs)
            await_until(standby.follows, 10, "the standby does not follow")
            primary.demote()
            standby.promote()
            stack.await_all(jobs, "completed", CALL_SECONDS + 20)
            later = stack.openai(max_retries=4).responses.create(model="openai/o3-pro", input="Hello again")
            assert later.status == "completed"
            assert len(stack.calls()) == len(jobs) + 1
            await_until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 200, 20, stack.logs)
