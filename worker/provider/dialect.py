"""A request in the provider's dialect.

`openai` sends what the client sent. `strict` brings it into the form that AI/ML API documents for `POST /v1/responses`
(`simulator/request.schema.json`), which asks for fields that OpenAI lets clients leave out and knows only some of its
values. Nothing that carries meaning is dropped: where the schema has no form for an item, a tool or a part, it goes
out as it came, for a provider may take more than it documents, and names what it refuses before it bills anything.

Everything here is pure and deterministic: an attempt that is repeated sends the same bytes.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final

from jobs.settings import Dialect

Json = dict[str, Any]
Convert = Callable[[Any], Any]
"""Brings one value into form; None means that the value is left out."""

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True)
class Form:
    """The form of one kind of object.

    `defaults` stand for fields that are absent or null. Every other null is left out, as it says nothing that its
    absence does not. `converts` brings into form what is there. Items that must have an id have an `id_prefix`.
    """

    defaults: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    converts: Mapping[str, Convert] = field(default_factory=lambda: _NOTHING)
    id_prefix: str | None = None

    def apply(self, given: Mapping[str, Any]) -> Json:
        """A copy of `given` in this form."""
        formed = dict(self.defaults)
        for name, value in given.items():
            convert = self.converts.get(name)
            kept = value if value is None or convert is None else convert(value)
            if kept is not None:
                formed[name] = kept
        return formed


def in_dialect(body: Mapping[str, Any], dialect: Dialect) -> Json:
    """The body of a call as the provider takes it; its top has no nulls, and an `input`."""
    if dialect is Dialect.OPENAI:
        return dict(body)
    return _with_allowed_tools(_BODY.apply(body))


def _kind(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


def _formed(form: Form) -> Convert:
    """Give an object this form; what is none stays as it is."""
    return lambda value: form.apply(value) if isinstance(value, dict) else value


def _each(convert: Convert) -> Convert:
    """`convert` for the elements of a list; what is no list stays as it is."""

    def convert_all(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [formed for each in value if (formed := convert(each)) is not None]

    return convert_all


def _by_type(forms: Mapping[str, Form]) -> Convert:
    """Give an object the form of its `type`; what has none stays as it is."""

    def convert(value: Any) -> Any:
        form = forms.get(_kind(value) or "")
        return value if form is None else form.apply(value)

    return convert


def _one_of(*values: str, otherwise: str | None = None, **renamed: str) -> Convert:
    """One of the schema's values; `renamed` tells which of them stands for another value."""

    def convert(value: Any) -> Any:
        return value if value in values else renamed.get(str(value), otherwise)

    return convert


def _absent(_value: Any) -> None:
    return None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- content parts

_PLAIN: Final = Form()
_CITATION: Final = Form({"title": "", "start_index": 0, "end_index": 0})


def _annotation(value: Any) -> Any:
    """The schema has one kind of annotation. As input the others change nothing that the model reads."""
    is_whole = _kind(value) == "url_citation" and isinstance(value.get("url"), str)
    return _CITATION.apply(value) if is_whole else None


_INPUT_PARTS: Final[Mapping[str, Form]] = {
    "input_text": _PLAIN,
    "input_image": Form(converts={"detail": _one_of("high", "low", "auto", otherwise="auto", original="high")}),
    "input_file": _PLAIN,
    "output_text": Form(converts={"type": lambda _: "input_text", "annotations": _absent, "logprobs": _absent}),
}
_OUTPUT_TEXT: Final = Form(
    {"annotations": []},
    {"type": lambda _: "output_text", "annotations": _each(_annotation), "logprobs": _absent},
)
_OUTPUT_PARTS: Final[Mapping[str, Form]] = {
    "output_text": _OUTPUT_TEXT,
    "input_text": _OUTPUT_TEXT,
    "refusal": _PLAIN,
}


# --- items

_STATUS: Final = _one_of("in_progress", "completed", "incomplete", otherwise="incomplete")
_PARTS_OF_ANSWERS: Final = frozenset({"output_text", "refusal"})


def _result(value: Any) -> Any:
    """What a function gave: one text where all its parts are text, else its parts, for images cannot be a text."""
    if not isinstance(value, list):
        return _as_text(value)
    parts = _each(_by_type(_INPUT_PARTS))(value)
    if all(_kind(part) == "input_text" for part in parts):
        return "\n".join(_as_text(part.get("text", "")) for part in parts)
    return parts


_INPUT_MESSAGE: Final = Form(converts={"content": _each(_by_type(_INPUT_PARTS)), "status": _STATUS})
_ANSWER: Final = Form(
    {"type": "message", "status": "completed"},
    {"content": _each(_by_type(_OUTPUT_PARTS)), "status": _STATUS},
    id_prefix="msg",
)
_ITEMS: Final[Mapping[str, Form]] = {
    "function_call": Form(converts={"arguments": _as_text, "status": _STATUS}),
    "function_call_output": Form(converts={"output": _result, "status": _STATUS}),
    "reasoning": Form({"summary": []}, {"status": _STATUS}, id_prefix="rs"),
    "web_search_call": Form(
        {"status": "completed"},
        {"status": _one_of("in_progress", "completed", "searching", "failed", otherwise="completed")},
        id_prefix="ws",
    ),
    "mcp_list_tools": Form(
        {"tools": []}, {"tools": _each(_formed(Form({"input_schema": {}}))), "error": _as_text}, id_prefix="mcpl"
    ),
    "mcp_approval_request": Form(converts={"arguments": _as_text}, id_prefix="mcpr"),
    "mcp_approval_response": _PLAIN,
    "mcp_call": Form(converts={"arguments": _as_text, "error": _as_text, "output": _as_text}, id_prefix="mcp"),
    "item_reference": _PLAIN,
}


def _items(value: Any) -> Any:
    return [_item(item, place) for place, item in enumerate(value)] if isinstance(value, list) else value


def _item(item: Any, place: int) -> Any:
    form = _form_of(item) if isinstance(item, dict) else None
    if form is None:
        return item
    formed = form.apply(item)
    if form.id_prefix is not None and not formed.get("id"):
        digest = sha256(json.dumps([place, item], sort_keys=True).encode()).hexdigest()
        formed["id"] = f"{form.id_prefix}_{digest[:32]}"
    return formed


def _form_of(item: Mapping[str, Any]) -> Form | None:
    kind = _kind(item)
    if kind in (None, "message"):
        return _ANSWER if _is_answer(item) else _INPUT_MESSAGE
    return _ITEMS.get(kind or "")


def _is_answer(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return (
        message.get("role") == "assistant"
        and isinstance(content, list)
        and any(_kind(part) in _PARTS_OF_ANSWERS for part in content)
    )


# --- tools and the choice among them

_SEARCH: Final = Form(
    converts={
        "type": _one_of("web_search_preview", "web_search_preview_2025_03_11", otherwise="web_search_preview"),
        "search_context_size": _one_of("low", "medium", "high"),
        "user_location": _formed(Form({"type": "approximate"})),
    }
)
"""The web search that the schema has, under whichever name it is asked for."""
_TOOLS: Final[Mapping[str, Form]] = {
    # OpenAI takes a missing `strict` for true only where the schema allows it, and a loose one must not fail.
    "function": Form({"strict": False, "parameters": {"type": "object", "properties": {}}}),
    "mcp": _PLAIN,
    "web_search": _SEARCH,
    "web_search_2025_08_26": _SEARCH,
    "web_search_preview": _SEARCH,
    "web_search_preview_2025_03_11": _SEARCH,
}
_CHOICES: Final[Mapping[str, Form]] = {name: form for name, form in _TOOLS.items() if form is _SEARCH}


def _with_allowed_tools(body: Json) -> Json:
    """The schema has no choice of `allowed_tools`: to offer only those, and choose by their mode, says the same."""
    choice, tools = body.get("tool_choice"), body.get("tools")
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools" or not isinstance(tools, list):
        return body
    allowed = _each(_by_type(_CHOICES))(choice.get("tools"))
    kept = (
        [tool for tool in tools if any(_names(each, tool) for each in allowed)] if isinstance(allowed, list) else tools
    )
    return {**body, "tools": kept, "tool_choice": choice.get("mode") or "auto"}


def _names(reference: Any, tool: Any) -> bool:
    """Whether a reference means this tool: every field that it gives is the tool's."""
    return (
        isinstance(reference, dict)
        and isinstance(tool, dict)
        and all(tool.get(name) == value for name, value in reference.items() if name in _NAMING)
    )


_NAMING: Final = frozenset({"type", "name", "server_label"})


# --- the rest of the body

_INCLUDES: Final = frozenset(
    {
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "reasoning.encrypted_content",
        "code_interpreter_call.outputs",
    }
)


def _includes(value: Any) -> Any:
    """Those that the schema has; an answer lacks at most what another one would have added to it."""
    known = [each for each in value if isinstance(each, str) and each in _INCLUDES] if isinstance(value, list) else []
    return known or None


_FORMATS: Final[Mapping[str, Form]] = {"json_schema": _PLAIN}
_BARE_FORMATS: Final = frozenset({"text", "json_object"})


def _format(value: Any) -> Any:
    kind = _kind(value)
    return {"type": kind} if kind in _BARE_FORMATS else _by_type(_FORMATS)(value)


_BODY: Final = Form(
    converts={
        "input": _items,
        "tools": _each(_by_type(_TOOLS)),
        "tool_choice": _by_type(_CHOICES),
        "text": _formed(Form({"format": {"type": "text"}}, {"format": _format})),
        "include": _includes,
        "reasoning": _formed(_PLAIN),
        "prompt": _formed(_PLAIN),
    }
)
