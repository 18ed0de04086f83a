"""The bodies of answers: the provider's two documented samples, byte for byte, and answers made for the prompt.

The oddities here (no status, `output: null`, a finished message that is in_progress) are those of the samples, each as
a behaviour of its own.
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
    """A response object and its cost. `usd` is the amount that is recorded if the call is billed."""

    body: dict[str, Any]
    raw: bytes | None
    input_tokens: int
    output_tokens: int
    usd: float
    cost_places: frozenset[str]

    @property
    def meta(self) -> dict[str, Any]:
        """The cost in the provider's own field."""
        return {"usage": {"credits_used": round(self.usd * CREDITS_PER_USD), "usd_spent": round(self.usd, 9)}}

    def cost_headers(self) -> dict[str, str]:
        """Return the headers that carry the cost of a plain JSON answer."""
        if "headers" not in self.cost_places:
            return {}
        return {
            "x-aimlapi-credits-used": str(round(self.usd * CREDITS_PER_USD)),
            "x-aimlapi-usd-spent": f"{self.usd:.9f}",
        }

    def encoded(self) -> bytes:
        """Return the body of a plain JSON answer."""
        if self.raw is not None:
            return self.raw
        body = {**self.body, "meta": self.meta} if "body" in self.cost_places else self.body
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def build_answer(step: Step, request: ProviderRequest, default_cost: str) -> Answer:
    """Return the answer of `step`."""
    if step.behaviour.startswith("sample-"):
        return _sample(step, default_cost)
    body = _BUILDERS.get(step.behaviour, _full)(step, request)
    written = "".join(json.dumps(item) for item in body["output"] or ()) if step.tokens is None else ""
    reasoning_tokens = _REASONING_TOKENS if step.reasoning_tokens is None else step.reasoning_tokens
    input_tokens = request.input_tokens if step.input_tokens is None else step.input_tokens
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
    """Return whether the provider bills a call that completes this step."""
    if step.billed is not None:
        return step.billed
    if step.behaviour in ("failed", "unfinished"):  # a failed request costs nothing
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
    """Return the model's name in answers: a dated one, without its vendor."""
    return "o3-pro-2025-06-10" if model in ("openai/o3-pro", "o3-pro") else model.rpartition("/")[2]


def _given(settings: Mapping[str, Any], name: str, default: Any) -> Any:
    value = settings.get(name)
    return default if value is None else value


def envelope(request: ProviderRequest, status: str) -> dict[str, Any]:
    """Return a response object without output: its identity, and the request's settings."""
    given = request.settings
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
        "model": reported_model(request.model),
        "output": [],
        "parallel_tool_calls": given.get("parallel_tool_calls") is not False,
        "previous_response_id": given.get("previous_response_id"),
        "prompt": given.get("prompt"),
        "reasoning": {"effort": reasoning.get("effort") or "medium", "summary": reasoning.get("summary")},
        "service_tier": "default",
        "store": given.get("store") is True,
        "temperature": _given(given, "temperature", 1),
        "text": {**(given.get("text") or {}), "format": request.text_format},
        "tool_choice": given.get("tool_choice") or "auto",
        "tools": given.get("tools") or [],
        "top_p": _given(given, "top_p", 1),
        "truncation": given.get("truncation") or "disabled",
    }


def _text(step: Step, request: ProviderRequest) -> str:
    if step.text is not None:
        return step.text
    said: list[str] = []
    if request.prompt or not request.tool_outputs:
        said.append(f'You wrote: "{_start(request.prompt, 160)}".')
    if request.tool_outputs:
        said.append("The tools gave: " + ", ".join(f'"{_start(output, 400)}"' for output in request.tool_outputs) + ".")
    return (
        f"{' '.join(said)} This is Backburner's built-in simulator, answering in place of {request.model}: no model "
        "was asked and nothing was charged. Set BACKBURNER_PROVIDER_API_KEY to get real answers."
    )


def _start(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "…"


def _structured_text(step: Step, request: ProviderRequest) -> str:
    if step.text is not None:
        return step.text
    schema = request.text_format.get("schema")
    value = {"answer": _text(step, request)} if schema is None else example(schema, _text(step, request))
    return json.dumps(value, ensure_ascii=False)


def _with_output(request: ProviderRequest, output: list[items.Item], status: str = "completed") -> dict[str, Any]:
    return {**envelope(request, status), "output": output, "output_text": items.output_text(output)}


def _full(step: Step, request: ProviderRequest) -> dict[str, Any]:
    if request.tools_to_call and (step.text is None or request.must_call):
        return _with_output(request, [items.reasoning(request), *map(items.tool_call, request.tools_to_call)])
    text = _text(step, request) if request.text_format["type"] == "text" else _structured_text(step, request)
    searches = [] if request.web_search is None else [items.web_search(request, request.web_search)]
    return _with_output(request, [items.reasoning(request), *searches, items.message(request, text)])


def _tool_call(step: Step, request: ProviderRequest) -> dict[str, Any]:
    return _with_output(request, [items.reasoning(request), items.scripted_call(request, step)])


def _json(step: Step, request: ProviderRequest) -> dict[str, Any]:
    return _with_output(request, [items.reasoning(request), items.message(request, _structured_text(step, request))])


def _refusal(step: Step, request: ProviderRequest) -> dict[str, Any]:
    return _with_output(
        request, [items.reasoning(request), items.refusal(step.text or "I'm sorry, I can't help with that.")]
    )


def _many_items(step: Step, request: ProviderRequest) -> dict[str, Any]:
    output: list[items.Item] = []
    for number in range(1, (20 if step.items is None else step.items) + 1):
        output += [items.reasoning(request), items.message(request, f"{step.text or 'Part'} {number}. ")]
    return _with_output(request, output)


def _unknown_items(step: Step, request: ProviderRequest) -> dict[str, Any]:
    return _with_output(
        request, [items.reasoning(request), items.unknown(), items.message(request, _text(step, request))]
    )


def _huge(step: Step, request: ProviderRequest) -> dict[str, Any]:
    size = 1024 * (1024 if step.kb is None else step.kb)
    phrase = step.text or "All work and no play makes a long answer. "
    return _with_output(
        request, [items.reasoning(request), items.message(request, (phrase * (size // len(phrase) + 1))[:size])]
    )


def _incomplete(step: Step, request: ProviderRequest) -> dict[str, Any]:
    text = step.text if step.text is not None else _text(step, request)[: len(request.prompt) // 2 + 40]
    body = _with_output(request, [items.reasoning(request), items.message(request, text, "incomplete")], "incomplete")
    return {**body, "incomplete_details": {"reason": step.reason or "max_output_tokens"}}


def _failed(step: Step, request: ProviderRequest) -> dict[str, Any]:
    text = step.message or "An error occurred while processing your request. You can retry your request."
    return {
        **envelope(request, "failed"),
        "error": {"code": step.code or "server_error", "message": text},
        "usage": None,
    }


def _empty(_step: Step, request: ProviderRequest) -> dict[str, Any]:
    return _with_output(request, [items.reasoning(request)])


def _output_null(step: Step, request: ProviderRequest) -> dict[str, Any]:
    return {**envelope(request, "completed"), "output": None, "output_text": _text(step, request)}


def _no_status(step: Step, request: ProviderRequest) -> dict[str, Any]:
    body = _full(step, request)
    del body["status"]
    return body


def _in_progress_item(step: Step, request: ProviderRequest) -> dict[str, Any]:
    return _with_output(
        request, [items.reasoning(request), items.message(request, _text(step, request), "in_progress")]
    )


def _unfinished(step: Step, request: ProviderRequest) -> dict[str, Any]:
    return {**envelope(request, step.status or "in_progress"), "usage": None}


def _no_usage(step: Step, request: ProviderRequest) -> dict[str, Any]:
    return {**_full(step, request), "usage": None}


def _malformed_usage(step: Step, request: ProviderRequest) -> dict[str, Any]:
    usage = {
        "input_tokens": "137",
        "input_tokens_details": 3,
        "output_tokens": None,
        "output_tokens_details": [],
        "total_tokens": -1,
    }
    return {**_full(step, request), "usage": usage}


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
