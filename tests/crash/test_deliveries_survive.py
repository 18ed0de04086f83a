"""A hundred webhooks while workers are killed and the broker is flushed; `test_many_deliveries.py` has thousands."""

from pathlib import Path

from tests.crash.delivering import deliver_under_fire
from tests.support.valkey import ValkeyServer


def test_every_event_arrives_and_only_kills_cause_duplicates(
    postgres_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    outcome = deliver_under_fire(postgres_url, valkey, tmp_path, events=104, kills=1, flushes=2, seconds=60)
    assert (outcome.events, outcome.missing, outcome.undelivered) == (104, set(), 0)
    assert outcome.unexplained == {}
    assert outcome.duplicates <= outcome.lost_attempts
