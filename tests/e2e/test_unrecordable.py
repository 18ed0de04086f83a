"""An answer that the database refuses for its content: the call counts as possibly billed."""

from pathlib import Path

import psycopg
import pytest

from tests.support.stack import Stack
from tests.support.waiting import await_until

pytestmark = pytest.mark.long

REFUSED = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'cannot be stored' USING ERRCODE = 'untranslatable_character'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON answers FOR EACH ROW EXECUTE FUNCTION refuse()
"""


def test_calls_end_at_max_attempts(postgres_url: str, valkey_url: str, tmp_path: Path) -> None:
    environment = {"BACKBURNER_MAX_ATTEMPTS": "2"}
    with Stack(postgres_url, valkey_url, tmp_path, environment) as stack:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(REFUSED)
        job = stack.submit("[[sim: full delay=0]] Hello")
        await_until(lambda: stack.get(job)["status"] == "failed", 60, stack.logs)
        attempts = stack.attempts(job)
        assert [each["outcome"] for each in attempts] == ["lost", "lost"], attempts
        assert all(each["billed"] != "no" for each in attempts)
        assert len(stack.calls()) == 2
