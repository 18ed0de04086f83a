"""A request in the provider's dialect.

`openai` sends the client's request unchanged. `strict` converts it to the form that AI/ML API documents for `POST
/v1/responses` (`simulator/request.schema.json`). That form requires fields that OpenAI lets clients omit, and allows
only some of OpenAI's values. Nothing that carries meaning is dropped. An item, tool or part for which the schema has no
form is sent unchanged: a provider may accept more than it documents, and names what it refuses before it bills
anything.

Everything here is pure and deterministic: a repeated attempt sends the same bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from jobs.conversation import kind_of
from jobs.encoding import to_text
from jobs.settings import Dialect
from worker.provider.item_as_message import as_message
from worker.provider.item_dialect import fit_items, made_id

Json = dict[str, Any]
Convert = Callable[[Any], Any]
"""Converts one value. None means that the value is left out."""

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True)
class Form:
    """The form of one kind of object.

    `defaults` replace fields that are absent or null. Every other null is left out: it means the same as an absent
    field. `converts` converts the fields that are present. Items that must have an id have an `id_prefix`.
    """

    defaults: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    converts: Mapping[str, Convert] = field(default_factory=lambda: _NOTHING)
    id_prefix: str | None = None

    def apply(self, given: Mapping[str, Any]) -> Json:
        """Return a copy of `given` in this form."""
        formed = dict(self.defaults)
        for name, value in given.items():
            convert = self.converts.get(name)
            kept = value if value is None or convert is None else convert(value)
            if kept is not None:
                formed[name] = kept
        return formed


def in_dialect(body: Mapping[str, Any], dialect: Dialect) -> Json:
    """Return the body of a call in `dialect`. The top level of `body` must have an `input` and no nulls."""
    input_ = body.get("input")
    if isinstance(input_, list):
        body = {**body, "input": fit_items(input_)}
    if dialect is Dialect.OPENAI:
        return {name: value for name, value in body.items() if name != "input" or value not in ("", [])}
    formed = _with_allowed_tools(_BODY.apply(body))
    tools = formed.get("tools")
    is_documented = all(_kind(tool) in _TOOLS for tool in (tools if isinstance(tools, list) else ()))
    if is_documented and isinstance(formed.get("input"), list):
        formed["input"] = [as_message(item) for item in formed["input"]]
    return formed


def _kind(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


def _formed(form: Form) -> Convert:
    """Return a converter of objects to `form`. It leaves any other value unchanged."""
    return lambda value: form.apply(value) if isinstance(value, dict) else value


def _each(convert: Convert) -> Convert:
    """Return a converter of the elements of a list. It leaves any other value unchanged."""

    def convert_all(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [formed for each in value if (formed := convert(each)) is not None]

    return convert_all


def _by_type(forms: Mapping[str, Form]) -> Convert:
    """Return a converter of objects to the form of their `type`. It leaves any other value unchanged."""

    def convert(value: Any) -> Any:
        form = forms.get(_kind(value) or "")
        return value if form is None else form.apply(value)

    return convert


def _one_of(*values: str, otherwise: str | None = None, **renamed: str) -> Convert:
    """Return a converter that keeps the schema's `values`, replaces those in `renamed`, and any other by
    `otherwise`.
    """

    def convert(value: Any) -> Any:
        return value if value in values else renamed.get(str(value), otherwise)

    return convert


def _absent(_value: Any) -> None:
    return None


def _object(value: Any) -> Any:
    return value if isinstance(value, dict) else None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else to_text(value, ascii_only=False, spaced=True)


# --- content parts

_PLAIN: Final = Form()
_CITATION: Final = Form({"title": "", "start_index": 0, "end_index": 0})


def _annotation(value: Any) -> Any:
    """Convert an annotation. The schema has one kind; in an input, the others change nothing that the model reads."""
    is_whole = _kind(value) == "url_citation" and isinstance(value.get("url"), str)
    return _CITATION.apply(value) if is_whole else None


_INPUT_PARTS: Final[Mapping[str, Form]] = {
    "input_text": _PLAIN,
    "input_image": Form(converts={"detail": _one_of("high", "low", "auto", otherwise="auto", original="high")}),
    "input_file": _PLAIN,
    "output_text": Form(converts={"type": lambda _: "input_text", "annotations": _absent, "logprobs": _absent}),
}
_OUTPUT_TEXT: Final = Form(
    {"annotations": []}, {"type": lambda _: "output_text", "annotations": _each(_annotation), "logprobs": _absent}
)
_OUTPUT_PARTS: Final[Mapping[str, Form]] = {"output_text": _OUTPUT_TEXT, "input_text": _OUTPUT_TEXT, "refusal": _PLAIN}


# --- items

_STATUS: Final = _one_of("in_progress", "completed", "incomplete", otherwise="incomplete")
_PARTS_OF_ANSWERS: Final = frozenset({"output_text", "refusal"})


def _result(value: Any) -> Any:
    """Convert a function's output: to one text if all its parts are text, else to parts, as an image cannot be text."""
    if not isinstance(value, list):
        return _as_text(value)
    parts = _each(_by_type(_INPUT_PARTS))(value)
    if all(_kind(part) == "input_text" for part in parts):
        return "\n".join(_as_text(part.get("text", "")) for part in parts)
    return parts


_LISTED_TOOL: Final = Form({"input_schema": {}}, {"input_schema": _object, "annotations": _object})
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
    "mcp_list_tools": Form({"tools": []}, {"tools": _each(_formed(_LISTED_TOOL)), "error": _as_text}, id_prefix="mcpl"),
    "mcp_approval_request": Form(converts={"arguments": _as_text}, id_prefix="mcpr"),
    "mcp_approval_response": _PLAIN,
    "mcp_call": Form(converts={"arguments": _as_text, "error": _as_text, "output": _as_text}, id_prefix="mcp"),
    "item_reference": _PLAIN,
}


def _items(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    items = list(map(_item, value))
    for place, item in enumerate(items):
        form = _form_of(item) if isinstance(item, dict) else None
        if form is not None and form.id_prefix is not None and not item.get("id"):
            item["id"] = made_id(form.id_prefix, place)
    return items


def _item(item: Any) -> Any:
    form = _form_of(item) if isinstance(item, dict) else None
    return item if form is None else form.apply(item)


def _form_of(item: Mapping[str, Any]) -> Form | None:
    kind = kind_of(item) or ""
    if kind == "message":
        return _ANSWER if _is_answer(item) else _INPUT_MESSAGE
    return _ITEMS.get(kind)


def _is_answer(message: Mapping[str, Any]) -> bool:
    """Return whether a message has the form of earlier answers, which one with an image cannot have."""
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, list):
        return False
    kinds = {_kind(part) for part in content}
    return bool(kinds & _PARTS_OF_ANSWERS) and kinds <= _OUTPUT_PARTS.keys()


def is_accepted(item: Mapping[str, Any], dialect: Dialect) -> bool:
    """Return whether an item of an earlier answer may be sent again: one refused item would end the conversation.

    A provider accepts the types that OpenAI documents, and its own types with a prefix, as in Open Responses.
    """
    kind = item.get("type")
    return dialect is Dialect.OPENAI or (isinstance(kind, str) and (kind in _REPLAYED or ":" in kind))


_REPLAYED: Final = frozenset(
    {
        *_ITEMS,
        "apply_patch_call",
        "code_interpreter_call",
        "compaction",
        "computer_call",
        "custom_tool_call",
        "file_search_call",
        "image_generation_call",
        "local_shell_call",
        "message",
        "program",
        "program_output",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
    }
)


# --- tools and the choice among them

_SEARCH: Final = Form(
    converts={
        "type": _one_of("web_search_preview", "web_search_preview_2025_03_11", otherwise="web_search_preview"),
        "search_context_size": _one_of("low", "medium", "high"),
        "user_location": _formed(Form({"type": "approximate"})),
    }
)
"""The schema's only web search, for every name by which clients request one."""
_APPROVAL: Final = Form(converts={"always": _formed(_PLAIN), "never": _formed(_PLAIN)})
_TOOLS: Final[Mapping[str, Form]] = {
    # OpenAI reads a missing `strict` as true only if the function's schema allows it: a loose schema must not fail.
    "function": Form({"strict": False, "parameters": {"type": "object", "properties": {}}}),
    "mcp": Form(converts={"allowed_tools": _formed(_PLAIN), "require_approval": _formed(_APPROVAL)}),
    "web_search": _SEARCH,
    "web_search_2025_08_26": _SEARCH,
    "web_search_preview": _SEARCH,
    "web_search_preview_2025_03_11": _SEARCH,
}
_CHOICES: Final[Mapping[str, Form]] = {name: form for name, form in _TOOLS.items() if form is _SEARCH}


def _with_allowed_tools(body: Json) -> Json:
    """Replace a choice of `allowed_tools`, which the schema lacks, by offering only those tools and choosing by their
    mode.
    """
    choice, tools = body.get("tool_choice"), body.get("tools")
    if not isinstance(choice, dict) or _kind(choice) != "allowed_tools":
        return body
    mode = choice.get("mode") or "auto"
    named = choice.get("tools")
    if not isinstance(named, list) or not isinstance(tools, list):
        return {**body, "tool_choice": mode}
    allowed = set(map(_name_of, _each(_by_type(_CHOICES))(named)))
    kept = [tool for tool in tools if _name_of(tool) in allowed]
    if not kept:  # no named tool is offered: the provider refuses it
        return body
    return {**body, "tools": kept, "tool_choice": mode}


def _name_of(tool: Any) -> tuple[str | None, str]:
    """Return the type and name that identify a tool, both in a request's tools and in a choice among them."""
    kind = _kind(tool)
    name = tool.get("server_label" if kind == "mcp" else "name") if isinstance(tool, dict) else None
    return kind, name if isinstance(name, str) else ""


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
    """Return those that the schema has. Without the others, an answer lacks at most what they would have added."""
    known = [each for each in value if isinstance(each, str) and each in _INCLUDES] if isinstance(value, list) else []
    return known or None


def _variables(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _by_type(_INPUT_PARTS)(each) for name, each in value.items() if each is not None}


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
        "reasoning": _formed(Form(converts={"summary": _one_of("auto", "concise", "detailed")})),
        "prompt": _formed(Form(converts={"variables": _variables})),
    }
)
