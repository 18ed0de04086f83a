"""Answers of real providers and gateways, from files like `odd_answers.json`, byte for byte.

A file is `{"cases": [{"name", "answers": [{"status", "headers", "json" | "text" | "sse"}]}]}`; other keys are for
tests. `json` is sent as compact JSON, `text` unchanged. In `sse` an object is sent as an event, a text unchanged.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from simulator.script import Script, ScriptError, Step
from simulator.stream import frame

_BODIES: Final = frozenset(("json", "text", "sse"))
_OWN_HEADERS: Final = frozenset(("content-length", "transfer-encoding", "connection"))


class AnswersError(ValueError):
    """A file of answers that cannot be read. Its text is the reason."""


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """One answer, ready to be sent. `parts` of a stream are its events; any other answer is one part."""

    status: int
    headers: Mapping[str, str]
    parts: tuple[bytes, ...]
    is_stream: bool
    response: Mapping[str, Any]
    """The last response object in it; empty if there is none."""

    @property
    def body(self) -> bytes:
        """The whole answer."""
        return b"".join(self.parts)

    def with_usage(self, step: Step) -> Step:
        """Return `step` with the tokens and the billing of this answer, unless it sets its own."""
        usage = self.response.get("usage")
        counts = usage if isinstance(usage, Mapping) else {}
        given, made = counts.get("input_tokens"), counts.get("output_tokens")
        billed = self.status < 300 and self.response.get("status") != "failed"
        return replace(
            step,
            input_tokens=(given if isinstance(given, int) else 0) if step.input_tokens is None else step.input_tokens,
            tokens=(made if isinstance(made, int) else 0) if step.tokens is None else step.tokens,
            billed=billed if step.billed is None else step.billed,
        )


class RecordedAnswers:
    """Cases by name, each with its answers in order. The last answer repeats."""

    def __init__(self, cases: Mapping[str, Sequence[RecordedAnswer]]) -> None:
        self._cases = cases

    def answer(self, name: str, number: int) -> RecordedAnswer:
        """Return the answer to a job's `number`-th call, counted from 1.

        Raises:
            ScriptError: no case has this name.
        """
        answers = self._cases.get(name)
        if answers is None:
            raise ScriptError(f"no recorded answer is named {name!r}")
        return answers[min(number, len(answers)) - 1]

    def check(self, script: Script) -> None:
        """Check that every case exists that `script` names.

        Raises:
            ScriptError: a case does not exist.
        """
        for step in script.steps:
            if step.recorded is not None:
                self.answer(step.recorded, 1)


def read_answers(path: str) -> RecordedAnswers:
    """Read the packaged cases and those of the file at `path`, which take precedence. An empty path means no file.

    Raises:
        AnswersError: the file cannot be read, or does not have the form in this module's docstring.
    """
    if not path:
        return RecordedAnswers(_packaged())
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise AnswersError(f"cannot read {path}: {error.strerror}") from None
    return RecordedAnswers({**_packaged(), **_cases(text, path)})


@cache
def _packaged() -> Mapping[str, Sequence[RecordedAnswer]]:
    name = "odd_answers.json"
    return _cases(resources.files("simulator").joinpath(name).read_bytes(), name)


def _cases(text: bytes, source: str) -> dict[str, Sequence[RecordedAnswer]]:
    try:
        return {
            str(case["name"]): [_recorded(each) for each in _some(case["answers"])]
            for case in json.loads(text)["cases"]
        }
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise AnswersError(f"{source} is not a file of recorded answers: {reason}") from None


def _some(answers: Sequence[Any]) -> Sequence[Any]:
    if not answers:
        raise ValueError("a case has no answers")
    return answers


def _recorded(given: Mapping[str, Any]) -> RecordedAnswer:
    kinds = _BODIES & given.keys()
    if len(kinds) != 1:
        raise ValueError("an answer needs one of json, text and sse")
    names = {name.lower(): str(value) for name, value in given.get("headers", {}).items()}
    headers = {name: value for name, value in names.items() if name not in _OWN_HEADERS}
    status = int(given.get("status", 200))
    if not 200 <= status <= 599:
        raise ValueError(f"{status} is not the status of an answer")
    if "sse" in given:
        parts = tuple(each.encode() if isinstance(each, str) else frame(each) for each in given["sse"])
        objects = [each.get("response") for each in given["sse"] if isinstance(each, Mapping)]
        return RecordedAnswer(status, headers, parts, is_stream=True, response=_last_object(objects))
    if "text" in given:
        return RecordedAnswer(status, headers, (given["text"].encode(),), is_stream=False, response={})
    body = json.dumps(given["json"], ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return RecordedAnswer(status, headers, (body,), is_stream=False, response=_last_object([given["json"]]))


def _last_object(values: Sequence[Any]) -> Mapping[str, Any]:
    objects: Iterator[Mapping[str, Any]] = (each for each in reversed(values) if isinstance(each, Mapping))
    return next(objects, {})
