"""Deleted texts are in no file any more, while everything goes on running."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.store.database import Database
from tests.conftest import migrated_database
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.long

CANARY = b"CANARY-OF-THE-PROMPT"
SIZES = (1, 30, 300, 3_000, 30_000)


@pytest.fixture
def stack(request: pytest.FixtureRequest, valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    with (
        migrated_database(request, "sqlite") as url,
        Stack(url, valkey.url, tmp_path / "data") as stack,
    ):
        yield stack


def files_of(stack: Stack) -> list[Path]:
    file = Path(stack.database_url.removeprefix("sqlite:///"))
    return [each for each in (*file.parent.rglob(f"{file.name}*"), *stack.data_dir.rglob("*")) if each.is_file()]


def left_in(stack: Stack) -> dict[str, int]:
    counts = {each.name: each.read_bytes().count(CANARY) for each in files_of(stack)}
    return {name: count for name, count in counts.items() if count}


def test_a_deleted_prompt_is_in_no_file_of_a_running_server(stack: Stack) -> None:
    """[18.16]"""
    chance = random.Random(7)
    prompts = [f"[[sim: full delay=0]] {CANARY.decode()} " * chance.choice(SIZES) for _ in range(60)]
    erased = [stack.submit(prompt, instructions=CANARY.decode()) for prompt in prompts]
    kept = stack.submit("[[sim: full delay=0]] Hello")
    stack.await_all([*erased, kept], "completed", 60)
    assert left_in(stack), "this test looks where the prompts are"
    database = Database(stack.database_url)
    with stack.openai() as client, database.read() as reading:
        for each in erased[:-1]:
            client.responses.delete(each)
        reading.exec_driver_sql("BEGIN")
        reading.exec_driver_sql("SELECT count(*) FROM jobs").one()
        client.responses.delete(erased[-1])
        assert left_in(stack), "somebody reads an older state, which the log has to keep"
        reading.exec_driver_sql("COMMIT")
    database.close()
    await_until(lambda: not left_in(stack), 90, lambda: f"still in {left_in(stack)}")
    assert stack.get(kept)["status"] == "completed"


def test_it_is_gone_when_the_delete_is_answered(stack: Stack) -> None:
    """[18.16]"""
    erased = stack.submit(f"[[sim: full delay=0]] {CANARY.decode()}", store=False)
    stack.await_all([erased], "completed", 30)
    with stack.openai() as client:
        client.responses.delete(erased)
    await_until(lambda: not left_in(stack), 2, lambda: f"still in {left_in(stack)}")
