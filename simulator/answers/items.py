"""The output items of an answer, as the Responses API shapes them."""

import json
import secrets
from typing import Any

from simulator.answers.by_schema import example
from simulator.script import Step
from simulator.turn import Turn

Item = dict[str, Any]


def fresh_id(prefix: str) -> str:
    """An id in the provider's style: a prefix and 48 hex digits."""
    return f"{prefix}_{secrets.token_hex(24)}"


def reasoning() -> Item:
    """A reasoning item without a summary, as o3-pro sends it."""
    return {"id": fresh_id("rs"), "type": "reasoning", "summary": []}


def message(text: str, status: str = "completed") -> Item:
    """A message of one text."""
    return _message({"type": "output_text", "annotations": [], "logprobs": [], "text": text}, status)


def refusal(text: str) -> Item:
    """A message that refuses."""
    return _message({"type": "refusal", "refusal": text}, "completed")


def _message(part: dict[str, Any], status: str) -> Item:
    return {"id": fresh_id("msg"), "type": "message", "status": status, "content": [part], "role": "assistant"}


def unknown() -> Item:
    """An item of a type from the future."""
    return {"id": fresh_id("ftr"), "type": "future_call", "status": "completed", "payload": {"level": [1, 2, 3]}}


def function_call(turn: Turn, step: Step) -> Item:
    """A call of the request's first function, or of the one that the step names."""
    functions = [tool for tool in turn.settings.get("tools") or () if tool["type"] == "function" and "name" in tool]
    name = step.name or _chosen_function(turn)
    tool: dict[str, Any] = next((tool for tool in functions if name in (None, tool["name"])), {})
    arguments = step.arguments
    if arguments is None:
        arguments = json.dumps(example(tool.get("parameters", {"type": "object"}), "example"), ensure_ascii=False)
    return {
        "id": fresh_id("fc"),
        "type": "function_call",
        "status": "completed",
        "arguments": arguments,
        "call_id": f"call_{secrets.token_hex(12)}",
        "name": name or tool.get("name", "look_up"),
    }


def must_call_function(turn: Turn) -> bool:
    """Whether the request leaves the model no choice but a function call."""
    return turn.settings.get("tool_choice") == "required" or _chosen_function(turn) is not None


def _chosen_function(turn: Turn) -> str | None:
    match turn.settings.get("tool_choice"):
        case {"type": "function", "name": str(name)}:
            return name
    return None


def output_text(output: list[Item]) -> str:
    """All text of an output, the way the SDKs join it."""
    return "".join(
        part["text"]
        for item in output
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    )
