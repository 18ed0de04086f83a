"""`backburner keys revoke` beside a running server: the key's connections end, and its calls too if asked."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.support.stack import MODEL, ROOT, Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = [pytest.mark.one_database, pytest.mark.long]


@pytest.fixture
def stack(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    environment = {"BACKBURNER_WORKER_CONCURRENCY": "5"}
    with Stack(database_url, valkey.url, tmp_path, environment, workers=2) as stack:
        yield stack


def keys(stack: Stack, *arguments: str) -> dict[str, Any]:
    """Return the output of `backburner keys`."""
    command = [sys.executable, "-m", "cli.main", "keys", *arguments, "--json"]
    environment = {**os.environ, **stack.settings()}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=True)
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_a_revoked_keys_stream_ends_and_its_calls_are_cut_within_a_second(stack: Stack) -> None:
    mallory = keys(stack, "create", "mallory")
    stack.api.match(rf"(?=.*{mallory['id']}).*key created", 5)
    innocent = stack.submit("[[sim: full delay=12]] Hello")
    with (
        OpenAI(base_url=stack.base_url, api_key=mallory["key"]) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        prompts = ["[[sim: full delay=60]] Hello"] * 15
        ids = [client.responses.create(model=MODEL, input=each, background=True).id for each in prompts]
        await_until(lambda: len(stack.calls()) == 10, 20, stack.logs)
        waiter = pool.submit(client.responses.retrieve, ids[-1], extra_query={"wait": 60})
        done = keys(stack, "revoke", mallory["id"], "--cancel-jobs")
        revoked_at = done["revoked_at"]
        with pytest.raises(openai.AuthenticationError):
            waiter.result(5)
    stack.api.match(rf"(?=.*{mallory['id']}).*key revoked", 5)
    stack.api.match(rf"(?=.*{mallory['id']})(?=.*/v1/responses/{ids[-1]}).*sign-in failed", 5)
    assert mallory["key"] not in stack.api.output
    assert done["cancelled"] == {"in_progress": 9, "queued": 6}

    def cut() -> list[dict[str, Any]]:
        return [each for each in stack.calls() if each["outcome"] == "client_disconnected"]

    await_until(lambda: len(cut()) == 9, 5, stack.logs)
    ended = [datetime.fromisoformat(each["finished_at"]).timestamp() for each in cut()]
    assert max(ended) - revoked_at < 2.5, "counted from the second in which the key was revoked"
    stack.await_all([innocent], "completed", 20)
    assert keys(stack, "cancel-jobs", mallory["id"])["cancelled"] == {"in_progress": 0, "queued": 0}
