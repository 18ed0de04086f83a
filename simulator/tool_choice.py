"""The choice of the offered tools that an answer calls.

A tool is called if the user names it or `tool_choice` requires a call, and only once per user message. After its output
the answer is a text, so that every loop of tool calls ends.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

Tool = Mapping[str, Any]

_CALLABLE: Final = ("function", "custom")


def tools_to_call(body: Mapping[str, Any], asked: str, answered: Collection[str | None]) -> tuple[Tool, ...]:
    """Return the tools that an answer to `asked` calls, among those that have not `answered`.

    None in `answered` is a tool of unknown name, which may be any.
    """
    choice = body.get("tool_choice")
    if choice == "none" or None in answered:
        return ()
    waiting = [tool for tool in offered_tools(body) if _allows(choice, tool) and tool["name"] not in answered]
    called = [tool for tool in waiting if _is_named(tool["name"], asked)] or waiting[: must_call(body)]
    return tuple(called if body.get("parallel_tool_calls") is not False else called[:1])


def must_call(body: Mapping[str, Any]) -> bool:
    """Return whether the request requires a call."""
    match body.get("tool_choice"):
        case "required" | {"type": "function" | "custom"} | {"type": "allowed_tools", "mode": "required"}:
            return True
    return False


def offered_tools(body: Mapping[str, Any]) -> Iterator[Tool]:
    """Yield the functions and custom tools of a request, those in namespaces included."""
    for tool in body.get("tools") or ():
        if tool["type"] == "namespace":
            inner = tool.get("tools")
            for each in inner if isinstance(inner, list) else ():
                if isinstance(each, dict) and _can_be_called(each):
                    yield {**each, "namespace": tool.get("name")}
        elif _can_be_called(tool):
            yield tool


def _can_be_called(tool: Tool) -> bool:
    return tool.get("type") in _CALLABLE and isinstance(tool.get("name"), str)


def _allows(choice: Any, tool: Tool) -> bool:
    match choice:
        case {"type": "function" | "custom" as kind, "name": name}:
            return (tool["type"], tool["name"]) == (kind, name)
        case {"type": "allowed_tools", "tools": list(allowed)}:
            return any(isinstance(each, dict) and each.get("name") == tool["name"] for each in allowed)
    return True


def _is_named(name: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None
