"""Tool calls and their outputs belong together. OpenAI refuses one without the other, in these words.

The items of an earlier response or conversation are not known here, so a body that continues one is not checked.
"""

from collections.abc import Mapping
from typing import Any, Final

from simulator.rules.messages import BodyInvalid

_MAY_HOLD_CALLS: Final = frozenset(("item_reference", "compaction"))
_ANSWERED_BY_CLIENTS: Final = frozenset(("function_call", "custom_tool_call", "computer_call"))


def check_calls(body: Mapping[str, Any]) -> None:
    """Check that each output follows its call, and that each call that a client answers has its output.

    Raises:
        BodyInvalid: a call or an output is alone.
    """
    items = body.get("input")
    continues = body.get("previous_response_id") is not None or body.get("conversation") is not None
    if continues or not isinstance(items, list):
        return
    calls: dict[str, str] = {}
    answered: set[str] = set()
    all_shown = True
    for item in items:
        kind, call_id = item.get("type"), item.get("call_id")
        if kind in _MAY_HOLD_CALLS:
            all_shown = False
        if not isinstance(call_id, str) or not isinstance(kind, str):
            continue
        if kind.endswith("_call"):
            calls[call_id] = kind
        elif kind.endswith("_call_output"):
            if all_shown and call_id not in calls:
                raise BodyInvalid(f"No tool call found for {_words(kind)} with call_id {call_id}.")
            answered.add(call_id)
    for call_id, kind in calls.items():
        if kind in _ANSWERED_BY_CLIENTS and call_id not in answered:
            raise BodyInvalid(f"No tool output found for {_words(kind)} {call_id}.")


def _words(kind: str) -> str:
    return kind.replace("_", " ")
