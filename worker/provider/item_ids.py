"""Unique ids of output items, whatever ids the provider gives them.

Gateways omit ids, or give every item the same one (`msg_0`). Clients tell items apart by id, and answer a call by its
`call_id`, so both are unique in our responses.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from jobs.event_stream import identity_of

_PREFIXES: Final[Mapping[str, str]] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "web_search_call": "ws",
    "file_search_call": "fs",
    "code_interpreter_call": "ci",
    "image_generation_call": "ig",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
}
"""Prefixes of OpenAI's ids."""
_NEED_AN_ID: Final = frozenset({"message", "reasoning"})
_ANSWERED: Final = ("function_call", "custom_tool_call")
"""Items whose output a client sends with their `call_id`. Shell calls are not among them: their outputs are in the same
answer.
"""


class ItemIds:
    """Gives each item of one response ids that no other item has."""

    def __init__(self, seed: Callable[[], str], taken: Iterable[str] = ()) -> None:
        """Make ids from `seed`. None is among those `taken`, which are identities as `identity_of` returns them."""
        self._seed = seed
        self._taken = set(taken)

    def assign(self, item: Mapping[str, Any], place: int, *, always: bool = False) -> dict[str, Any]:
        """Return a copy of `item`, the one at `place`. It keeps its own ids if no earlier item has them.

        An item that needs no id in the SDKs gets none, unless `always` is set.
        """
        kind = item.get("type")
        own, call = item.get("id"), item.get("call_id")
        named = dict(item)
        if not own or not isinstance(own, str):
            if always or kind in _NEED_AN_ID:
                named["id"] = self._free("id:", _PREFIXES.get(str(kind), "item"), place)
            else:
                named.pop("id", None)
        elif f"id:{own}" in self._taken:
            named["id"] = self._free("id:", _PREFIXES.get(str(kind), "item"), place)
        if kind in _ANSWERED and (not call or not isinstance(call, str) or self._is_call(call)):
            own = named.get("id")
            is_fit = not call and own and not self._is_call(own)
            named["call_id"] = own if is_fit else self._free(f"call:{kind}:", "call", place)
        self._reserve(named)
        return named

    def _reserve(self, item: Mapping[str, Any]) -> None:
        """Reserve the ids of `item`."""
        self._taken |= identity_of(item)
        if isinstance(item.get("id"), str):
            self._taken.add(f"id:{item['id']}")

    def _is_call(self, call_id: str) -> bool:
        return any(f"call:{kind}:{call_id}" in self._taken for kind in _ANSWERED)

    def _free(self, scope: str, prefix: str, place: int) -> str:
        while True:
            name = f"{prefix}_{self._seed()}{place:02x}"
            if scope + name not in self._taken:
                return name
            place += 256  # beyond the places of most answers, so that the other ids stay the same
