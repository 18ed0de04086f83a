r"""The directive language, by which a prompt scripts the simulator's answer to its call.

    [[sim: 429 x2 retry-after=1, then full delay=0.5]] Hello

gives two 429 answers with `Retry-After: 1`, and a full answer after half a second to the third and every later call.

Grammar::

    directive = "[[sim:" script "]]"
    script    = step { "," step }
    step      = [ "then" ] behaviour [ name ] [ "x" count ] { option "=" value }
    value     = bare word | "a JSON string"

Steps are used in order, one per call. `x3` means three calls, and the last step repeats. Calls are counted per job: by
the part of `X-Client-Request-Id` before its last colon (`resp_1:2` is call two of `resp_1`), or by the prompt's hash if
that header is absent. A directive is searched in `instructions`, then in the input of this turn (every item after the
model's own last one), so that a conversation can script each of its turns. Of several in one turn the last counts.
Without one, `Options.script` and chaos decide. A directive that does not parse is answered with a 400 and the reason.

**Answers** (200; in a stream the same as SSE):

==================== ==========================================================================================
full                 reasoning item, message, usage, cost; follows `text.format` and `tool_choice`. `text=` is its text
sample-1, sample-2   the two bodies of the provider's documentation, byte for byte (as SSE: derived from them)
tool-call            a function call: `name=`, `arguments=`; else of the function that full would call, or the first
json                 a JSON text, by the request's schema if it has one
refusal              a message whose content is a refusal
many-items           `items=` reasoning and message pairs (20)
unknown-items        an output item, and in a stream an event, of an unknown type
huge                 a text of `kb=` kilobytes (1024)
incomplete           status incomplete, partial text; `reason=` max_output_tokens (default) or content_filter
failed               status failed; `code=` server_error (default), `message=`
empty                status completed and no text
output-null          the text only in `output_text`, as in sample-1
no-status            no top-level status, as in sample-2
in-progress-item     a finished message whose status is in_progress, as in sample-2
unfinished           no output, and status in_progress (or `status=`)
no-usage             usage is null
malformed-usage      usage of wrong types
answer NAME          a case of `odd_answers.json` or of the file of `--answers`, byte for byte, whatever the request is;
                     its answers are used in order, counted per job, and the last one repeats
==================== ==========================================================================================

**HTTP errors** (at once unless `delay=`; all take `message=`, `retry-after=`, `retry-after-ms=`):

==================== ==========================================================================================
400 to 599           the provider's error body (HTML for 502 and 520 to 524), with its own message if one is known
400-value            400 Unsupported value
overflow             400 with context_length_exceeded inside a nested upstream text; full if truncation is auto
429-free-tier        429 of the free tier
429-quota            429 in OpenAI's shape, type insufficient_quota; `code=`
500-upstream         500 blaming a third party
500-maintenance      500 for a model under maintenance
==================== ==========================================================================================

**Faults before an answer** (at once unless `delay=`):

==================== ==========================================================================================
drop                 connection reset before any byte
close                connection closed before any byte
half-open            no answer until the client disconnects, or for `max=` seconds (3600)
garbage              bytes that are not HTTP
==================== ==========================================================================================

**Faults of a finished answer** (a full one, after its delay; billed):

==================== ==========================================================================================
drop-after-headers   200 and headers, then a reset
truncated            half of the body, or of the stream, then the connection closes
stall                half of it, then silence until the client disconnects, or for `max=` seconds (3600)
slow                 one byte each `every=` seconds (0.05)
not-json             200 with an HTML page
no-body              200 with an empty body
stream-end           a stream without its last event; a plain request gets full
stream-error         a stream broken by an `error` event (`code=`, `message=`); a plain request gets full
==================== ==========================================================================================

**Options of every step**: `delay=` seconds before the answer, in a stream between response.in_progress and the first
output; `billed=yes|no` overrides whether the call is billed (`drop delay=1 billed=yes`: billed, and lost).
**Of answers**: `text=`, `tokens=` (output tokens), `input-tokens=`, `reasoning-tokens=`, `cost=` an amount in USD, or
its place (both|headers|body|chunk|none), and in a stream `chunk=` characters per delta and `every=` seconds between
deltas (0.02).

**A full answer follows its request.** It calls each offered function or custom tool that the last user message names as
a whole word ("use get_weather"), one call each, or only the first with `parallel_tool_calls: false`. If `tool_choice`
requires a call and none is named, it calls the first that is allowed. A tool is called once per user message: after its
output the answer is a text that quotes the output, so that loops end. With `text=` a tool is called only if
`tool_choice` requires it. "search the web" adds a finished web_search_call before the message if such a tool is
offered. `include` adds `reasoning.encrypted_content`, `message.output_text.logprobs` and
`web_search_call.action.sources`; its other values are accepted and have no effect.

The body is checked before any script (`Options.rules`, see `simulator.rules`). An invalid body uses no step.

In native background mode, HTTP errors and early faults answer the POST. Late faults have no effect.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final


class ScriptError(ValueError):
    """A script that does not parse. Its text is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The treatment of one call. None means the behaviour's own default."""

    behaviour: str
    source: str
    times: int = 1
    delay: float | None = None
    billed: bool | None = None
    retry_after: str | None = None
    retry_after_ms: str | None = None
    text: str | None = None
    message: str | None = None
    code: str | None = None
    reason: str | None = None
    status: str | None = None
    name: str | None = None
    arguments: str | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost: str | None = None
    chunk: int | None = None
    every: float | None = None
    max: float | None = None
    items: int | None = None
    kb: int | None = None
    recorded: str | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """Steps in order. The last one repeats."""

    source: str
    steps: tuple[Step, ...]

    @property
    def counts_calls(self) -> bool:
        """True if the step depends on the number of earlier calls."""
        return len(self.steps) > 1

    def step_of_call(self, number: int) -> Step:
        """Return the step for the `number`-th call, counted from 1."""
        for step in self.steps:
            number -= step.times
            if number <= 0:
                return step
        return self.steps[-1]


ANSWERS: Final = frozenset(
    (
        *("full", "sample-1", "sample-2", "tool-call", "json", "refusal", "many-items", "unknown-items", "huge"),
        *("incomplete", "failed", "empty", "output-null", "no-status", "in-progress-item", "unfinished"),
        *("no-usage", "malformed-usage", "answer"),
    )
)
NAMED_ERRORS: Final = frozenset(
    ("400-value", "overflow", "429-free-tier", "429-quota", "500-upstream", "500-maintenance")
)
EARLY_FAULTS: Final = frozenset(("drop", "close", "half-open", "garbage"))
LATE_FAULTS: Final = frozenset(
    ("drop-after-headers", "truncated", "stall", "slow", "not-json", "no-body", "stream-end", "stream-error")
)


def is_http_error(behaviour: str) -> bool:
    """Return whether the behaviour is an HTTP error."""
    return behaviour in NAMED_ERRORS or re.fullmatch("[45][0-9][0-9]", behaviour) is not None


def _is_known(behaviour: str) -> bool:
    return behaviour in ANSWERS | EARLY_FAULTS | LATE_FAULTS or is_http_error(behaviour)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def _yes_or_no(text: str) -> bool:
    return {"yes": True, "no": False}[text]


def _cost(text: str) -> str:
    if text not in ("both", "headers", "body", "chunk", "none"):
        _seconds(text)
    return text


_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = MappingProxyType(
    {
        "delay": _seconds,
        "billed": _yes_or_no,
        "retry-after": str,
        "retry-after-ms": str,
        "text": str,
        "message": str,
        "code": str,
        "reason": str,
        "status": str,
        "name": str,
        "arguments": str,
        "tokens": _count,
        "input-tokens": _count,
        "reasoning-tokens": _count,
        "cost": _cost,
        "chunk": _count,
        "every": _seconds,
        "max": _seconds,
        "items": _count,
        "kb": _count,
    }
)

_DIRECTIVE: Final = re.compile(r'\[\[sim:((?:"(?:[^"\\]|\\.)*"|[^"\]]|\](?!\]))*)\]\]\s*')
_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<comma>,)
      | (?P<option>[a-z-]+)=(?P<value>"(?:[^"\\]|\\.)*"|[^\s,"]+)
      | x(?P<times>[0-9]+)(?![^\s,])
      | (?P<word>[^\s,"=]+)
    )""",
    re.VERBOSE,
)


def find_directive(text: str) -> str | None:
    """Return the script in the last directive of `text`; None if there is no directive.

    Raises:
        ScriptError: a directive begins and does not end. Treated as plain text, it would hide a test's mistake.
    """
    found = _DIRECTIVE.findall(text)
    if not found and "[[sim:" in text:
        raise ScriptError("the directive has no end, or a quote is not closed")
    return found[-1].strip() if found else None


def without_directives(text: str) -> str:
    """Return `text` as a model would read it, without directives."""
    return _DIRECTIVE.sub("", text)


def parse_script(source: str) -> Script:
    """Return the steps of a script.

    Raises:
        ScriptError: it does not follow the grammar, or names something that does not exist.
    """
    steps: list[Step] = []
    start = position = 0
    words: list[re.Match[str]] = []
    text = source.rstrip()
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise ScriptError(f"cannot read {text[position:].strip()!r}")
        position = token.end()
        if token["comma"]:
            steps.append(_step(words, text[start : token.start("comma")]))
            words, start = [], position
        else:
            words.append(token)
    steps.append(_step(words, text[start:]))
    return Script(source, tuple(steps))


def _step(tokens: list[re.Match[str]], source: str) -> Step:
    if tokens and tokens[0]["word"] == "then":
        tokens = tokens[1:]
    if not tokens or not tokens[0]["word"]:
        raise ScriptError(f"a step must begin with a behaviour: {source.strip()!r}")
    behaviour = tokens[0]["word"]
    if not _is_known(behaviour):
        raise ScriptError(f"unknown behaviour {behaviour!r}")
    found: dict[str, Any] = {}
    options = tokens[1:]
    if behaviour == "answer":
        if not options or not options[0]["word"]:
            raise ScriptError("'answer' must be followed by the name of a recorded answer")
        found["recorded"] = options.pop(0)["word"]
    for token in options:
        if token["times"]:
            found["times"] = max(int(token["times"]), 1)
        elif token["option"]:
            found[token["option"].replace("-", "_")] = _value(token["option"], token["value"])
        else:
            raise ScriptError(f"unexpected {token['word']!r} after {behaviour!r}")
    return Step(behaviour=behaviour, source=source.strip().removeprefix("then "), **found)


def _value(option: str, text: str) -> Any:
    convert = _OPTIONS.get(option)
    if convert is None:
        raise ScriptError(f"unknown option {option!r}")
    try:
        return convert(json.loads(text, strict=False) if text.startswith('"') else text)
    except (KeyError, ValueError):
        raise ScriptError(f"bad value {text!r} for {option!r}") from None
