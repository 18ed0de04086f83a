"""The database's file is moved or overwritten under a running server: paid answers are kept, creates are refused."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from jobs.outcome_files import unrecorded_files
from tests.support.stack import MODEL, Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database


@pytest.mark.long
def test_creates_are_refused_and_answers_kept_until_it_is_back(valkey: ValkeyServer, tmp_path: Path) -> None:
    path = tmp_path / "backburner.db"
    with Stack(f"sqlite:///{path}", valkey.url, tmp_path) as stack, stack.http() as http:

        def create() -> httpx.Response:
            return http.post("/responses", json={"model": MODEL, "input": "Hello", "background": True})

        job_ids = stack.submit_many(3, "[[sim: full delay=2]] Hello")
        stack.await_all(job_ids, "in_progress", 20)
        aside = path.rename(tmp_path / "aside.db")
        assert create().status_code == 503
        assert "replaced or deleted" in create().json()["error"]["message"]
        readiness = httpx.get(f"{stack.url}/readyz").json()
        assert readiness["missing"] == ["database"]
        assert "replaced or deleted" in readiness["reasons"]["database"]
        await_until(lambda: len(unrecorded_files(tmp_path)) == len(job_ids), 20, stack.logs)
        aside.rename(path)
        stack.await_all(job_ids, "completed", 20)
        assert create().status_code == 200
        assert [len(stack.calls(job_id)) for job_id in job_ids] == [1, 1, 1]
        assert unrecorded_files(tmp_path) == []


@pytest.mark.long
def test_a_backup_that_is_copied_over_it_is_not_written_to(valkey: ValkeyServer, tmp_path: Path) -> None:
    path, backup = tmp_path / "backburner.db", tmp_path / "backup.db"
    with Stack(f"sqlite:///{path}", valkey.url, tmp_path) as stack, stack.http() as http:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("VACUUM INTO ?", (str(backup),))
        job_ids = stack.submit_many(3, "[[sim: full delay=2]] Hello")
        stack.await_all(job_ids, "in_progress", 20)
        shutil.copyfile(backup, path)
        answer = http.post("/responses", json={"model": MODEL, "input": "Hello", "background": True})
        assert (answer.status_code, "was overwritten" in answer.json()["error"]["message"]) == (503, True)
        readiness = httpx.get(f"{stack.url}/readyz").json()
        assert readiness["missing"] == ["database"]
        assert "copy the backup over it once more" in readiness["reasons"]["database"]
        await_until(lambda: len(unrecorded_files(tmp_path)) == len(job_ids), 20, stack.logs)
        assert path.read_bytes() == backup.read_bytes()
        for process in stack.processes[1:]:
            process.kill()
