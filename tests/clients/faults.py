"""Scenarios that are known to fail, with the cause. One that passes fails its test and must be removed from here."""

from collections.abc import Mapping
from typing import Final

from tests.clients.worlds import DIRECT

Reasons = Mapping[str, Mapping[str, str]]

CLIENT_FAULTS: Final[Reasons] = {
    "llama-index": {
        "structured_streamed": "it looks for streamed tool calls where its own Responses model no longer puts them",
    },
}
"""Scenarios that fail with a lenient provider alone as well."""

LACKED_BY_STRICT: Final[Reasons] = {
    "codex": {
        "with_sub_agents": "it offers sub-agents in a tool of the kind `namespace`, which AI/ML API's schema does not "
        "have and a strict provider refuses before it bills anything; `features.multi_agent = false` switches them off",
    },
}
"""Scenarios that need a form which the strict provider's schema lacks."""


def expected(client: str, world: str) -> set[str]:
    """The scenarios of a client that fail in a world."""
    tables = [CLIENT_FAULTS, LACKED_BY_STRICT] if world != DIRECT and world.startswith("strict") else [CLIENT_FAULTS]
    return {name for table in tables for name in table.get(client, {})}
