"""The bodies of answers: the provider's two documented samples byte for byte, and a full one made for the prompt.

The oddities here (no status, `output: null`, a finished message that says in_progress) are those that the samples
show, each as a behaviour of its own.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

from simulator.answers import items
from simulator.answers.by_schema import example
from simulator.request import ProviderRequest
from simulator.script import ANSWERS, LATE_FAULTS, Step

USD_PER_INPUT_TOKEN: Final = 27.508 / 1_000_000
USD_PER_OUTPUT_TOKEN: Final = 110.032 / 1_000_000
CREDITS_PER_USD: Final = 2_000_000

_REASONING_TOKENS: Final = 64
_PLACES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "both": frozenset(("headers", "body")),
        "headers": frozenset(("headers",)),
        "body": frozenset(("body",)),
        "chunk": frozenset(("chunk",)),
        "none": frozenset(),
    }
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response object and what it cost. `usd` is what the ledger books when the call is billed."""

    body: dict[str, Any]
    raw: bytes | None
    input_tokens: int
    output_tokens: int
    usd: float
    cost_places: frozenset[str]

    @property
    def meta(self) -> dict[str, Any]:
        """The provider's own account of the cost."""
        return {"usage": {"credits_used": round(self.usd * CREDITS_PER_USD), "usd_spent": round(self.usd, 9)}}

    def cost_headers(self) -> dict[str, str]:
        """The headers that carry the cost of a plain JSON answer."""
        if "headers" not in self.cost_places:
            return {}
        return {
            "x-aimlapi-credits-used": str(round(self.usd * CREDITS_PER_USD)),
            "x-aimlapi-usd-spent": f"{self.usd:.9f}",
        }

    def encoded(self) -> bytes:
        """The body of a plain JSON answer."""
        if self.raw is not None:
            return self.raw
        body = {**self.body, "meta": self.meta} if "body" in self.cost_places else self.body
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def build_answer(step: Step, turn: ProviderRequest, default_cost: str) -> Answer:
    """The answer that `step` asks for."""
    if step.behaviour.startswith("sample-"):
        return _sample(step, default_cost)
    body = _BUILDERS.get(step.behaviour, _full)(step, turn)
    written = "".join(json.dumps(item) for item in body["output"] or ()) if step.tokens is None else ""
    reasoning_tokens = _REASONING_TOKENS if step.reasoning_tokens is None else step.reasoning_tokens
    input_tokens = turn.input_tokens if step.input_tokens is None else step.input_tokens
    output_tokens = reasoning_tokens + len(written) // 4 if step.tokens is None else step.tokens
    if "usage" not in body:
        body["usage"] = {
            "input_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": min(reasoning_tokens, output_tokens)},
            "total_tokens": input_tokens + output_tokens,
        }
    return _priced(step, default_cost, body, None, (input_tokens, output_tokens))


def is_billed(step: Step) -> bool:
    """Whether the provider takes money for a call that comes to this step's end."""
    if step.billed is not None:
        return step.billed
    if step.behaviour in ("failed", "unfinished"):  # a failed request is billed nothing
        return False
    return step.behaviour in ANSWERS | LATE_FAULTS


def _priced(step: Step, default_cost: str, body: dict[str, Any], raw: bytes | None, tokens: tuple[int, int]) -> Answer:
    usd = tokens[0] * USD_PER_INPUT_TOKEN + tokens[1] * USD_PER_OUTPUT_TOKEN if is_billed(step) else 0.0
    places = _PLACES.get(step.cost or default_cost)
    if places is None:
        usd = float(step.cost or 0)
        places = _PLACES["both" if default_cost == "none" else default_cost]
    return Answer(body, raw, *tokens, usd, places)


@cache
def _sample_bytes(name: str) -> bytes:
    return resources.files(__name__).joinpath(f"sample-answer-{name[-1]}.json").read_bytes()


def _sample(step: Step, default_cost: str) -> Answer:
    raw = _sample_bytes(step.behaviour)
    body = json.loads(raw)
    return _priced(step, default_cost, body, raw, (body["usage"]["input_tokens"], body["usage"]["output_tokens"]))


def reported_model(model: str) -> str:
    """The name under which the provider answers: a dated one, without its source."""
    return "o3-pro-2025-06-10" if model in ("openai/o3-pro", "o3-pro") else model.rpartition("/")[2]


def _given(settings: Mapping[str, Any], name: str, default: Any) -> Any:
    value = settings.get(name)
    return default if value is None else value


def envelope(turn: ProviderRequest, status: str) -> dict[str, Any]:
    """A response object without output: identity and the request's settings, echoed."""
    given = turn.settings
    reasoning = given.get("reasoning") or {}
    return {
        "id": items.fresh_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": given.get("instructions"),
        "max_output_tokens": given.get("max_output_tokens"),
        "metadata": given.get("metadata") or {},
        "model": reported_model(turn.model),
        "output": [],
        "parallel_tool_calls": given.get("parallel_tool_calls") is not False,
        "previous_response_id": given.get("previous_response_id"),
        "prompt": given.get("prompt"),
        "reasoning": {"effort": reasoning.get("effort") or "medium", "summary": reasoning.get("summary")},
        "service_tier": "default",
        "store": given.get("store") is True,
        "temperature": _given(given, "temperature", 1),
        "text": {**(given.get("text") or {}), "format": turn.text_format},
        "tool_choice": given.get("tool_choice") or "auto",
        "tools": given.get("tools") or [],
        "top_p": _given(given, "top_p", 1),
        "truncation": given.get("truncation") or "disabled",
    }


def _text(step: Step, turn: ProviderRequest) -> str:
    if step.text is not None:
        return step.text
    said: list[str] = []
    if turn.prompt or not turn.tool_outputs:
        said.append(f'You wrote: "{_start(turn.prompt, 160)}".')
    if turn.tool_outputs:
        said.append("The tools gave: " + ", ".join(f'"{_start(output, 400)}"' for output in turn.tool_outputs) + ".")
    return (
        f"{' '.join(said)} This is Backburner's built-in simulator, answering in place of {turn.model}: no model "
        "was asked and nothing was charged. Set BACKBURNER_PROVIDER_API_KEY to get real answers."
    )


def _start(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "…"


def _structured_text(step: Step, turn: ProviderRequest) -> str:
    if step.text is not None:
        return step.text
    schema = turn.text_format.get("schema")
    value = {"answer": _text(step, turn)} if schema is None else example(schema, _text(step, turn))
    return json.dumps(value, ensure_ascii=False)


def _with_output(turn: ProviderRequest, output: list[items.Item], status: str = "completed") -> dict[str, Any]:
    return {**envelope(turn, status), "output": output, "output_text": items.output_text(output)}


def _full(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    if turn.tools_to_call and (step.text is None or turn.must_call):
        return _with_output(turn, [items.reasoning(turn), *map(items.tool_call, turn.tools_to_call)])
    text = _text(step, turn) if turn.text_format["type"] == "text" else _structured_text(step, turn)
    searches = [] if turn.web_search is None else [items.web_search(turn, turn.web_search)]
    return _with_output(turn, [items.reasoning(turn), *searches, items.message(turn, text)])


def _tool_call(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    return _with_output(turn, [items.reasoning(turn), items.scripted_call(turn, step)])


def _json(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    return _with_output(turn, [items.reasoning(turn), items.message(turn, _structured_text(step, turn))])


def _refusal(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    return _with_output(turn, [items.reasoning(turn), items.refusal(step.text or "I'm sorry, I can't help with that.")])


def _many_items(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    output: list[items.Item] = []
    for number in range(1, (20 if step.items is None else step.items) + 1):
        output += [items.reasoning(turn), items.message(turn, f"{step.text or 'Part'} {number}. ")]
    return _with_output(turn, output)


def _unknown_items(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    return _with_output(turn, [items.reasoning(turn), items.unknown(), items.message(turn, _text(step, turn))])


def _huge(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    size = 1024 * (1024 if step.kb is None else step.kb)
    phrase = step.text or "All work and no play makes a long answer. "
    return _with_output(turn, [items.reasoning(turn), items.message(turn, (phrase * (size // len(phrase) + 1))[:size])])


def _incomplete(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    text = step.text if step.text is not None else _text(step, turn)[: len(turn.prompt) // 2 + 40]
    body = _with_output(turn, [items.reasoning(turn), items.message(turn, text, "incomplete")], "incomplete")
    return {**body, "incomplete_details": {"reason": step.reason or "max_output_tokens"}}


def _failed(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    text = step.message or "An error occurred while processing your request. You can retry your request."
    return {
        **envelope(turn, "failed"),
        "error": {"code": step.code or "server_error", "message": text},
        "usage": None,
    }


def _empty(_step: Step, turn: ProviderRequest) -> dict[str, Any]:
    return _with_output(turn, [items.reasoning(turn)])


def _output_null(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    return {**envelope(turn, "completed"), "output": None, "output_text": _text(step, turn)}


def _no_status(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    body = _full(step, turn)
    del body["status"]
    return body


def _in_progress_item(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    return _with_output(turn, [items.reasoning(turn), items.message(turn, _text(step, turn), "in_progress")])


def _unfinished(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    return {**envelope(turn, step.status or "in_progress"), "usage": None}


def _no_usage(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    return {**_full(step, turn), "usage": None}


def _malformed_usage(step: Step, turn: ProviderRequest) -> dict[str, Any]:
    usage = {
        "input_tokens": "137",
        "input_tokens_details": 3,
        "output_tokens": None,
        "output_tokens_details": [],
        "total_tokens": -1,
    }
    return {**_full(step, turn), "usage": usage}


_BUILDERS: Final[Mapping[str, Callable[[Step, ProviderRequest], dict[str, Any]]]] = MappingProxyType(
    {
        "tool-call": _tool_call,
        "json": _json,
        "refusal": _refusal,
        "many-items": _many_items,
        "unknown-items": _unknown_items,
        "huge": _huge,
        "incomplete": _incomplete,
        "failed": _failed,
        "empty": _empty,
        "output-null": _output_null,
        "no-status": _no_status,
        "in-progress-item": _in_progress_item,
        "unfinished": _unfinished,
        "no-usage": _no_usage,
        "malformed-usage": _malformed_usage,
    }
)
