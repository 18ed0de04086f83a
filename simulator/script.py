r"""The directive language: what the simulator does with a call can be written into its prompt.

    [[sim: 429 x2 retry-after=1, then full delay=0.5]] Hello

gives two 429 answers with `Retry-After: 1`, and from the third call on a full answer after half a second.

Grammar::

    directive = "[[sim:" script "]]"
    script    = step { "," step }
    step      = [ "then" ] behaviour [ name ] [ "x" count ] { option "=" value }
    value     = bare word | "a JSON string"

Steps are taken in order, one per call; `x3` stands for three calls; the last step goes on for ever. Calls are counted
per job: by the part of `X-Client-Request-Id` before its last colon (`resp_1:2` is call two of `resp_1`), or by the
prompt's hash where that header is absent. A directive is looked for in `instructions`, then in the input of this turn
(every item after the model's own last one), so that a conversation can script each of its turns; of several in one
turn the last counts. Without one, `Options.script` and chaos decide. A directive that does not parse is answered 400
with the reason.

**Answers** (200; in a stream the same as SSE):

==================== ==========================================================================================
full                 reasoning item, message, usage, cost; honours `text.format` and `tool_choice`. `text=` says what
sample-1, sample-2   the two bodies of the provider's documentation, byte for byte (as SSE: derived from them)
tool-call            a function call: `name=`, `arguments=`, else of the function that full would call, or the first
json                 a JSON text, following the request's schema where it has one
refusal              a message whose content is a refusal
many-items           `items=` reasoning and message pairs (20)
unknown-items        an output item, and in a stream an event, of a type that nobody knows yet
huge                 a text of `kb=` kilobytes (1024)
incomplete           status incomplete, partial text; `reason=` max_output_tokens (default) or content_filter
failed               status failed; `code=` server_error (default), `message=`
empty                status completed and no text
output-null          the text only in `output_text`, as in sample-1
no-status            no top-level status, as in sample-2
in-progress-item     a finished message that says in_progress, as in sample-2
unfinished           no output, and status in_progress (or `status=`)
no-usage             usage is null
malformed-usage      usage of wrong types
answer NAME          a case of `odd_answers.json` or of the file of `--answers`, byte for byte and whatever the request
                     asks for; its answers are given in turn, counted per job, and the last one goes on for ever
==================== ==========================================================================================

**Refusals** (HTTP errors, at once unless `delay=`; all take `message=`, `retry-after=`, `retry-after-ms=`):

==================== ==========================================================================================
400 to 599           the provider's error body (HTML for 502 and 520 to 524): its own message where one is known
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
half-open            read, and never answer, until the client leaves or `max=` seconds (3600)
garbage              bytes that are not HTTP
==================== ==========================================================================================

**Faults of a finished answer** (a full one, after its delay; billed):

==================== ==========================================================================================
drop-after-headers   200 and headers, then a reset
truncated            half of the body, or of the stream, then the connection closes
stall                half of it, then silence until the client leaves or `max=` seconds (3600)
slow                 one byte each `every=` seconds (0.05)
not-json             200 with an HTML page
no-body              200 and nothing else
stream-end           a stream without its terminal event; a plain request gets full
stream-error         a stream broken by an `error` event (`code=`, `message=`); a plain request gets full
==================== ==========================================================================================

**Options of every step**: `delay=` seconds before the answer, in a stream between response.in_progress and the first
output; `billed=yes|no` overrides what the ledger counts (`drop delay=1 billed=yes`: paid for, and lost).
**Of answers**: `text=`, `tokens=` (output tokens), `input-tokens=`, `reasoning-tokens=`, `cost=` an amount in USD, or
where it is told (both|headers|body|chunk|none), and in a stream `chunk=` characters per delta and `every=` seconds
between deltas (0.02).

**A full answer follows its request**: it calls each offered function or custom tool that the last user message names as
a whole word ("use get_weather"), one call each, or the first alone with `parallel_tool_calls: false`; where
`tool_choice` demands a call and none is named, it calls the first that is allowed. A tool is called once per user
message: when its output has come back, the answer is a text that quotes the output, so that loops end. With `text=` a
tool is called only where `tool_choice` demands it. "search the web" puts a finished web_search_call before the message
where such a tool is offered. `include` brings `reasoning.encrypted_content`, `message.output_text.logprobs` and
`web_search_call.action.sources`; its other values are taken and have nothing to show here.

Before any script comes the check of the body (`Options.rules`, see `simulator.rules`); a refused body has no step.

With native background mode, refusals and early faults meet the POST; late faults make no difference.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final


class ScriptError(ValueError):
    """A script that does not parse, with the reason as its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one call gets. None means that the behaviour's own default applies."""

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
    """Steps in order; the last one repeats."""

    source: str
    steps: tuple[Step, ...]

    @property
    def counts_calls(self) -> bool:
        """Whether the step depends on how many calls there were."""
        return len(self.steps) > 1

    def step_of_call(self, number: int) -> Step:
        """The step for the `number`-th call, counted from 1."""
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
NAMED_REFUSALS: Final = frozenset(
    ("400-value", "overflow", "429-free-tier", "429-quota", "500-upstream", "500-maintenance")
)
EARLY_FAULTS: Final = frozenset(("drop", "close", "half-open", "garbage"))
LATE_FAULTS: Final = frozenset(
    ("drop-after-headers", "truncated", "stall", "slow", "not-json", "no-body", "stream-end", "stream-error")
)


def is_refusal(behaviour: str) -> bool:
    """Whether the behaviour is an HTTP error."""
    return behaviour in NAMED_REFUSALS or re.fullmatch("[45][0-9][0-9]", behaviour) is not None


def _is_known(behaviour: str) -> bool:
    return behaviour in ANSWERS | EARLY_FAULTS | LATE_FAULTS or is_refusal(behaviour)


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
    """The script inside the last directive of `text`.

    Raises:
        ScriptError: a directive is begun and not ended; taken for plain text, it would hide a test's mistake.
    """
    found = _DIRECTIVE.findall(text)
    if not found and "[[sim:" in text:
        raise ScriptError("the directive has no end, or a quote is not closed")
    return found[-1].strip() if found else None


def without_directives(text: str) -> str:
    """What a model would see of `text`, so to speak."""
    return _DIRECTIVE.sub("", text)


def parse_script(source: str) -> Script:
    """The steps of a script.

    Raises:
        ScriptError: it does not follow the grammar, or names what does not exist.
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
