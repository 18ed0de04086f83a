"""The request settings that a response repeats: the client's values, else the provider's, else OpenAI's defaults.

For the settings in `SERVED` the provider's value comes first, as in OpenAI's own responses.

Open Responses (https://www.openresponses.org/specification) requires each of these keys in every status, with a value
if OpenAI has a default. The SDKs' types require the keys of a tool and of `reasoning`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from jobs.tool_credentials import hide_in_tools

# In the order in which OpenAI writes them.
DEFAULTS: Final[Mapping[str, Any]] = {
    "id": None,
    "object": "response",
    "created_at": None,
    "status": None,
    "background": False,
    "completed_at": None,
    "error": None,
    "frequency_penalty": 0.0,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "model": None,
    "output": [],
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "usage": None,
    "user": None,
}
NEVER_ECHOED: Final = frozenset({"input", "stream", "stream_options", "webhook", "background_options"}) | {
    # a response has these in another shape than the request: it shows what the provider made of them
    *("access_programs", "image", "moderation", "prompt_cache_options")
}


SERVED: Final = ("reasoning", "service_tier", "truncation")
"""Settings that the provider may change: `service_tier: "auto"` comes back as a tier."""


def echo(settings: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a response repeats. `answer` has those that the provider echoed.

    Only the client's own `include` is shown, as the worker asks for more.
    """
    asked = {name: value for name, value in settings.items() if value is not None and name not in NEVER_ECHOED}
    echoed = {name: value for name, value in answer.items() if value is not None and name != "include"}
    shown = {**DEFAULTS, **echoed, **asked}
    for name in SERVED:
        if name in echoed:
            shown[name] = _over(asked.get(name), echoed[name])
    for name, complete in _COMPLETED.items():
        shown[name] = complete(shown[name])
    return shown


def _over(asked: Any, served: Any) -> Any:
    """Return the served value. Keys of an object that the provider left out keep the value asked for."""
    if not isinstance(asked, Mapping) or not isinstance(served, Mapping):
        return served
    return {**asked, **{name: each for name, each in served.items() if each is not None}}


def _text(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return DEFAULTS["text"]
    given = {name: each for name, each in value.items() if each is not None}
    shown = {**DEFAULTS["text"], **given}
    if isinstance(shown["format"], Mapping) and shown["format"].get("type") == "json_schema":
        shown["format"] = {"description": None, **shown["format"], "strict": bool(shown["format"].get("strict"))}
    return shown


def _reasoning(value: Any) -> Any:
    return {**DEFAULTS["reasoning"], **value} if isinstance(value, Mapping) else DEFAULTS["reasoning"]


def _tools(value: Any) -> Any:
    return [_tool(each) for each in hide_in_tools(value)] if isinstance(value, list) else DEFAULTS["tools"]


def _tool(tool: Any) -> Any:
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        return tool
    return {**tool, **{name: tool.get(name) for name in ("description", "parameters", "strict")}}


def _tool_choice(value: Any) -> Any:
    if isinstance(value, Mapping) and value.get("type") == "allowed_tools":
        return {**value, "mode": value.get("mode") or "auto"}
    return value


_COMPLETED: Final[Mapping[str, Callable[[Any], Any]]] = {
    "text": _text,
    "reasoning": _reasoning,
    "tools": _tools,
    "tool_choice": _tool_choice,
}
