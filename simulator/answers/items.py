"""The output items of an answer, as the Responses API shapes them."""

import json
import re
import secrets
from typing import Any, Final

from simulator.answers.by_schema import example
from simulator.request import ProviderRequest
from simulator.script import Step
from simulator.tool_choice import Tool, offered_tools

Item = dict[str, Any]

_WORD: Final = re.compile(r"\s*\S+|\s+")


def fresh_id(prefix: str) -> str:
    """An id in the provider's style: a prefix and 48 hex digits."""
    return f"{prefix}_{secrets.token_hex(24)}"


def reasoning(turn: ProviderRequest) -> Item:
    """A reasoning item without a summary, as o3-pro sends it; encrypted where the client asked for that."""
    item: Item = {"id": fresh_id("rs"), "type": "reasoning", "summary": []}
    if turn.includes("reasoning.encrypted_content"):
        item["encrypted_content"] = f"gAAAAA{secrets.token_urlsafe(96)}"
    return item


def message(turn: ProviderRequest, text: str, status: str = "completed") -> Item:
    """A message of one text."""
    logprobs = _logprobs_of(turn, text) if turn.includes("message.output_text.logprobs") else []
    return _message({"type": "output_text", "annotations": [], "logprobs": logprobs, "text": text}, status)


def refusal(text: str) -> Item:
    """A message that refuses."""
    return _message({"type": "refusal", "refusal": text}, "completed")


def _message(part: dict[str, Any], status: str) -> Item:
    return {"id": fresh_id("msg"), "type": "message", "status": status, "content": [part], "role": "assistant"}


def _logprobs_of(turn: ProviderRequest, text: str) -> list[dict[str, Any]]:
    """A probability for each word, the same for every word: nobody thought about any of them."""
    wanted = min(turn.settings.get("top_logprobs") or 0, 1)
    words = [
        {"token": word, "bytes": list(word.encode("utf-8", "replace")), "logprob": -0.1} for word in _WORD.findall(text)
    ]
    return [{**word, "top_logprobs": [word] * wanted} for word in words]


def unknown() -> Item:
    """An item of a type from the future."""
    return {"id": fresh_id("ftr"), "type": "future_call", "status": "completed", "payload": {"level": [1, 2, 3]}}


def web_search(turn: ProviderRequest, query: str) -> Item:
    """A search that the provider made by itself."""
    action: dict[str, Any] = {"type": "search", "query": query}
    if turn.includes("web_search_call.action.sources"):
        action["sources"] = [{"type": "url", "url": "https://example.com/"}]
    return {"id": fresh_id("ws"), "type": "web_search_call", "status": "completed", "action": action}


def scripted_call(turn: ProviderRequest, step: Step) -> Item:
    """A call of the function that the step names, or of the first one that the request would have called."""
    functions = [tool for tool in offered_tools(turn.settings) if tool["type"] == "function"]
    first = next((tool for tool in (*turn.tools_to_call, *functions) if tool["type"] == "function"), {})
    tool = next((tool for tool in functions if tool["name"] == step.name), {}) if step.name else first
    return _function_call(tool, step.name or tool.get("name", "look_up"), step.arguments)


def tool_call(tool: Tool) -> Item:
    """A call of an offered tool, with arguments that its schema allows."""
    if tool["type"] == "function":
        return _function_call(tool, tool["name"], None)
    return {
        "id": fresh_id("ctc"),
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": _call_id(),
        "name": tool["name"],
        "input": "example",
        **_namespace(tool),
    }


def _function_call(tool: Tool, name: str, arguments: str | None) -> Item:
    if arguments is None:
        arguments = json.dumps(example(tool.get("parameters") or {"type": "object"}, "example"), ensure_ascii=False)
    return {
        "id": fresh_id("fc"),
        "type": "function_call",
        "status": "completed",
        "arguments": arguments,
        "call_id": _call_id(),
        "name": name,
        **_namespace(tool),
    }


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _namespace(tool: Tool) -> Item:
    return {"namespace": tool["namespace"]} if "namespace" in tool else {}


def output_text(output: list[Item]) -> str:
    """All text of an output, the way the SDKs join it."""
    return "".join(
        part["text"]
        for item in output
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    )
