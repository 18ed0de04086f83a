"""Two thousand webhooks while workers are killed and the broker is flushed again and again."""

import sys
from pathlib import Path

import pytest

from tests.crash.delivering import deliver_under_fire
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.long


@pytest.mark.timeout(600)
def test_none_of_two_thousand_events_is_missing(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> None:
    outcome = deliver_under_fire(database_url, valkey, tmp_path, events=2000, kills=6, flushes=10, seconds=300)
    assert (outcome.events, outcome.missing, outcome.undelivered) == (2000, set(), 0)
    assert outcome.unexplained == {}
    assert outcome.duplicates <= outcome.lost_attempts, outcome
    sys.stdout.write(f"{outcome}\n")
