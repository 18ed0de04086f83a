"""The cases of `simulator/odd_answers.json`; its `about` explains the format."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A provider's answer and the expected result."""

    name: str
    transport: str
    answers: list[Json]
    expect: Json
    request: Json = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


CASES: Final = [
    Case(**case)
    for case in json.loads((Path(__file__).parents[2] / "simulator" / "odd_answers.json").read_text())["cases"]
]


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def wire(answer: Mapping[str, Any]) -> bytes:
    """Return the body of an answer, byte for byte."""
    if "text" in answer:
        return str(answer["text"]).encode()
    if "json" in answer:
        return compact(answer["json"]).encode()
    return "".join(
        event if isinstance(event, str) else f"event: {event['type']}\ndata: {compact(event)}\n\n"
        for event in answer["sse"]
    ).encode()
