"""Answers as providers and gateways really sent them, out of files like `odd_answers.json`, byte for byte.

A file is `{"cases": [{"name", "answers": [{"status", "headers", "json" | "text" | "sse"}]}]}`; other keys are for
tests. `json` is sent as compact JSON, `text` as it stands. In `sse` an object is sent as an event, a text as it stands.
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
_OURS: Final = frozenset(("content-length", "transfer-encoding", "connection"))


class AnswersError(ValueError):
    """A file of answers that cannot be read, with the reason as its text."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One answer, ready to be sent. `parts` of a stream are its events; any other answer is one part."""

    status: int
    headers: Mapping[str, str]
    parts: tuple[bytes, ...]
    is_stream: bool
    response: Mapping[str, Any]
    """The last response object in it; empty where it holds none."""

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.parts)

    def booked(self, step: Step) -> Step:
        """`step` with the tokens and the bill that this answer stands for in the ledger, where it says none itself."""
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
    """Cases by name, each with the answers that it gives in turn; the last one is given again and again."""

    def __init__(self, cases: Mapping[str, Sequence[Recorded]]) -> None:
        self._cases = cases

    def answer(self, name: str, number: int) -> Recorded:
        """What the `number`-th call of a job gets, counted from 1.

        Raises:
            ScriptError: no case has this name.
        """
        answers = self._cases.get(name)
        if answers is None:
            raise ScriptError(f"no recorded answer is named {name!r}")
        return answers[min(number, len(answers)) - 1]

    def check(self, script: Script) -> None:
        """Look up every case that `script` names.

        Raises:
            ScriptError: one is not there.
        """
        for step in script.steps:
            if step.recorded is not None:
                self.answer(step.recorded, 1)


def read_answers(path: str) -> RecordedAnswers:
    """The packaged cases and those of the file at `path`, which win; an empty path names no file.

    Raises:
        AnswersError: the file cannot be read, or does not have the form that this module's docstring shows.
    """
    if not path:
        return RecordedAnswers(_packaged())
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise AnswersError(f"cannot read {path}: {error.strerror}") from None
    return RecordedAnswers({**_packaged(), **_cases(text, path)})


@cache
def _packaged() -> Mapping[str, Sequence[Recorded]]:
    name = "odd_answers.json"
    return _cases(resources.files("simulator").joinpath(name).read_bytes(), name)


def _cases(text: bytes, source: str) -> dict[str, Sequence[Recorded]]:
    try:
        return {
            str(case["name"]): [_recorded(each) for each in _some(case["answers"])]
            for case in json.loads(text)["cases"]
        }
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise AnswersError(f"{source} is no file of recorded answers: {reason}") from None


def _some(answers: Sequence[Any]) -> Sequence[Any]:
    if not answers:
        raise ValueError("a case has no answers")
    return answers


def _recorded(given: Mapping[str, Any]) -> Recorded:
    kinds = _BODIES & given.keys()
    if len(kinds) != 1:
        raise ValueError("an answer needs one of json, text and sse")
    names = {name.lower(): str(value) for name, value in given.get("headers", {}).items()}
    headers = {name: value for name, value in names.items() if name not in _OURS}
    status = int(given.get("status", 200))
    if not 200 <= status <= 599:
        raise ValueError(f"{status} is no status of an answer")
    if "sse" in given:
        parts = tuple(each.encode() if isinstance(each, str) else frame(each) for each in given["sse"])
        objects = [each.get("response") for each in given["sse"] if isinstance(each, Mapping)]
        return Recorded(status, headers, parts, is_stream=True, response=_last_object(objects))
    if "text" in given:
        return Recorded(status, headers, (given["text"].encode(),), is_stream=False, response={})
    body = json.dumps(given["json"], ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Recorded(status, headers, (body,), is_stream=False, response=_last_object([given["json"]]))


def _last_object(values: Sequence[Any]) -> Mapping[str, Any]:
    objects: Iterator[Mapping[str, Any]] = (each for each in reversed(values) if isinstance(each, Mapping))
    return next(objects, {})
