"""The output items of an answer, in the shapes of the Responses API."""

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
    """Return an id in the provider's style: a prefix and 48 hex digits."""
    return f"{prefix}_{secrets.token_hex(24)}"


def reasoning(request: ProviderRequest) -> Item:
    """Return a reasoning item without a summary, as o3-pro sends it, with encrypted content if the client requested
    that.
    """
    item: Item = {"id": fresh_id("rs"), "type": "reasoning", "summary": []}
    if request.includes("reasoning.encrypted_content"):
        item["encrypted_content"] = f"gAAAAA{secrets.token_urlsafe(96)}"
    return item


def message(request: ProviderRequest, text: str, status: str = "completed") -> Item:
    """Return a message with one text."""
    logprobs = _logprobs_of(request, text) if request.includes("message.output_text.logprobs") else []
    return _message({"type": "output_text", "annotations": [], "logprobs": logprobs, "text": text}, status)


def refusal(text: str) -> Item:
    """Return a message that refuses."""
    return _message({"type": "refusal", "refusal": text}, "completed")


def _message(part: dict[str, Any], status: str) -> Item:
    return {"id": fresh_id("msg"), "type": "message", "status": status, "content": [part], "role": "assistant"}


def _logprobs_of(request: ProviderRequest, text: str) -> list[dict[str, Any]]:
    """Return made-up log probabilities, the same for every word."""
    wanted = min(request.settings.get("top_logprobs") or 0, 1)
    words = [
        {"token": word, "bytes": list(word.encode("utf-8", "replace")), "logprob": -0.1} for word in _WORD.findall(text)
    ]
    return [{**word, "top_logprobs": [word] * wanted} for word in words]


def unknown() -> Item:
    """Return an item of an unknown type."""
    return {"id": fresh_id("ftr"), "type": "future_call", "status": "completed", "payload": {"level": [1, 2, 3]}}


def web_search(request: ProviderRequest, query: str) -> Item:
    """Return a web search that the provider made by itself."""
    action: dict[str, Any] = {"type": "search", "query": query}
    if request.includes("web_search_call.action.sources"):
        action["sources"] = [{"type": "url", "url": "https://example.com/"}]
    return {"id": fresh_id("ws"), "type": "web_search_call", "status": "completed", "action": action}


def scripted_call(request: ProviderRequest, step: Step) -> Item:
    """Return a call of the function that the step names, or else of the first one that the request would have
    called.
    """
    functions = [tool for tool in offered_tools(request.settings) if tool["type"] == "function"]
    first = next((tool for tool in (*request.tools_to_call, *functions) if tool["type"] == "function"), {})
    tool = next((tool for tool in functions if tool["name"] == step.name), {}) if step.name else first
    return _function_call(tool, step.name or tool.get("name", "look_up"), step.arguments)


def tool_call(tool: Tool) -> Item:
    """Return a call of an offered tool, with arguments that its schema allows."""
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
    """Return all text of an output, joined as in the SDKs."""
    return "".join(
        part["text"]
        for item in output
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    )
