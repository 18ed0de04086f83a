"""The parts of a checked request body that an answer needs: its texts, and the tools to call."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from simulator.script import find_directive, without_directives
from simulator.tool_choice import Tool, must_call, tools_to_call

_EXCERPT: Final = 2_000
_MODEL_ITEMS: Final = frozenset(
    ("reasoning", "compaction", "item_reference", "mcp_list_tools", "mcp_approval_request", "program")
)
_NAMED_OUTPUTS: Final = frozenset(("function_call_output", "custom_tool_call_output"))
_TEXT_FIELDS: Final = ("text", "refusal", "stdout", "stderr")
_SEARCH: Final = re.compile(r"\bsearch the web\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """One valid request. The input itself is not kept, so that ten thousand held calls cost little."""

    model: str
    prompt: str
    """Start of the turn's last text that is no tool output, without directives."""
    tool_outputs: tuple[str, ...]
    """Start of each text in tool outputs since the model's last message."""
    prompt_sha256: bytes
    """SHA-256 of a string input's UTF-8 bytes, or of any other input's canonical JSON (sorted keys, no spaces)."""
    script: str | None
    input_tokens: int
    settings: Mapping[str, Any]
    """All fields except `input`."""
    tools_to_call: tuple[Tool, ...]
    """Offered tools that the prompt names or `tool_choice` requires, without those that have answered."""
    must_call: bool
    """True if `tool_choice` requires a call."""
    web_search: str | None
    """Query of a web search, if the prompt asks for one and that tool is offered."""

    @property
    def stream(self) -> bool:
        """True if the client requested SSE."""
        return self.settings.get("stream") is True

    @property
    def background(self) -> bool:
        """True if the client requested background mode."""
        return self.settings.get("background") is True

    @property
    def text_format(self) -> Mapping[str, Any]:
        """The `text.format` of the request; plain text by default."""
        text_format: Mapping[str, Any] = (self.settings.get("text") or {}).get("format") or {}
        return text_format if text_format.get("type") is not None else {"type": "text"}

    def includes(self, name: str) -> bool:
        """Return whether the client requested this additional part of the output."""
        return name in (self.settings.get("include") or ())


def prompt_hash(prompt: Any) -> bytes:
    """Return the hash that identifies an `input` in the call log."""
    if not isinstance(prompt, str):
        prompt = json.dumps(prompt, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()


def read_request(body: Mapping[str, Any]) -> ProviderRequest:
    """Read a checked body.

    Raises:
        ScriptError: it holds a directive that does not parse.
    """
    given = body.get("input")
    instructions = body.get("instructions") or ""
    conversation = _Conversation(given or "")
    offered = bool(body.get("tools"))
    asked = without_directives("\n".join(conversation.asked)) if offered else ""
    searches = offered and not conversation.searched and _wants_search(body, asked)
    everything = len(given) if isinstance(given, str) else len(json.dumps(given))
    return ProviderRequest(
        model=body["model"],
        prompt=without_directives(conversation.prompt)[:_EXCERPT].strip(),
        tool_outputs=tuple([text[:_EXCERPT] for text in conversation.outputs]),
        prompt_sha256=prompt_hash(given),
        script=find_directive(instructions) or find_directive("\n".join(conversation.texts)),
        input_tokens=7 + (everything + len(instructions)) // 4,
        settings={name: value for name, value in body.items() if name != "input"},
        tools_to_call=tools_to_call(body, asked, conversation.answered) if offered else (),
        must_call=offered and must_call(body),
        web_search=asked[:_EXCERPT].strip() if searches else None,
    )


def _wants_search(body: Mapping[str, Any], asked: str) -> bool:
    if not any(tool["type"].startswith("web_search") for tool in body["tools"]):
        return False
    match body.get("tool_choice"):
        case "none":
            return False
        case {"type": str(kind)} if kind.startswith("web_search"):
            return True
    return _SEARCH.search(asked) is not None


class _Conversation:
    """The input, read from its first item to its last. A turn begins after the model's own last item."""

    def __init__(self, given: str | Sequence[Mapping[str, Any]]) -> None:
        self.texts: list[str] = []
        """Texts that the turn adds, tool outputs included."""
        self.prompt = ""
        """The turn's last text that is no tool output."""
        self.outputs: list[str] = []
        """Tool outputs since the model's last message."""
        self._names: dict[str, str] = {}
        self._begin_turn([])
        if isinstance(given, str):
            self._read_user(given)
        else:
            for item in given:
                self._read(item)

    def _begin_turn(self, texts: list[str]) -> None:
        self.asked = texts
        """Texts of the last user message, which a loop of tool calls continues to answer."""
        self.answered: set[str | None] = set()
        """Names of the tools with an output since then; None for one whose call is not in the input."""
        self.searched = False
        """True if the web was searched since then."""

    def _read(self, item: Mapping[str, Any]) -> None:
        kind, role = item.get("type") or "message", item.get("role")
        if role == "user":
            self._read_user(item.get("content"))
        elif role == "assistant":
            self._begin_request()
            self.outputs = []
        elif kind in _MODEL_ITEMS or kind.endswith("_call"):
            self._begin_request()
            self._note_call(kind, item)
        elif kind.endswith("_output"):
            self._read_output(kind, item)
        else:
            self._add(_texts(item.get("content")))

    def _read_user(self, content: Any) -> None:
        texts = _texts(content)
        self._add(texts)
        self._begin_turn(texts)

    def _begin_request(self) -> None:
        self.texts = []
        self.prompt = ""

    def _note_call(self, kind: str, item: Mapping[str, Any]) -> None:
        call_id, name = item.get("call_id"), item.get("name")
        if isinstance(call_id, str) and isinstance(name, str):
            self._names[call_id] = name
        if kind == "web_search_call":
            self.searched = True

    def _read_output(self, kind: str, item: Mapping[str, Any]) -> None:
        texts = _texts(item.get("output"))
        self.texts += texts
        self.outputs.append("\n".join(texts))
        if kind in _NAMED_OUTPUTS:
            self.answered.add(self._names.get(item["call_id"]))

    def _add(self, texts: list[str]) -> None:
        self.texts += texts
        if texts:
            self.prompt = texts[-1]


def _texts(content: Any) -> list[str]:
    """Return the texts of a content or an output, whatever the types of its parts."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else [content]
    return [
        part[name]
        for part in parts
        if isinstance(part, dict)
        for name in _TEXT_FIELDS
        if isinstance(part.get(name), str)
    ]
