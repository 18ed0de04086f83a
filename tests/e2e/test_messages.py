"""Commands that a message costs the broker."""

from pathlib import Path

import pytest

from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer

KEPT_FOR_REDELIVERY = ("zadd", "hset", "zrem", "hdel")
"""Commands by which kombu notes on Redis who holds a message until it is acknowledged."""


def calls(valkey: ValkeyServer) -> int:
    """Return the number of these commands."""
    with valkey.client() as client:
        found = client.info("commandstats")
    return sum(found[f"cmdstat_{name}"]["calls"] for name in KEPT_FOR_REDELIVERY if f"cmdstat_{name}" in found)


@pytest.mark.long
def test_a_received_message_is_not_kept_for_redelivery(sqlite_url: str, tmp_path: Path) -> None:
    with ValkeyServer() as valkey, Stack(sqlite_url, valkey.url, tmp_path) as stack:
        stack.await_all(stack.submit_many(1, "[[sim: full]] Hello"), "completed", 30)
        before = calls(valkey)
        stack.await_all(stack.submit_many(20, "[[sim: full]] Hello"), "completed", 30)
        assert calls(valkey) == before
