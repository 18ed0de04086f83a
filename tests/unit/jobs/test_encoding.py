"""Bodies and rows as JSON."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic_core import PydanticSerializationError

from jobs.encoding import to_json
from jobs.lifecycle import Status


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else "deep"


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"a": [1, "é\u2028\0", None, True, 0.1]}, {"a": [1, "é\u2028\0", None, True, 0.1]}),
        (10**30, 10**30),
        (-(2**63) - 1, -(2**63) - 1),
        (nested(200), nested(200)),
        ([float("nan"), float("inf")], [None, None]),
        ([10**30, float("nan")], [10**30, None]),
        ({Status.QUEUED: Status.FAILED}, {"queued": "failed"}),
        (datetime(2026, 11, 28, 12, 0, 0, 1, tzinfo=UTC), "2026-11-28T12:00:00.000001+00:00"),
    ],
)
def test_what_json_has_is_written(value: Any, read: Any) -> None:
    assert json.loads(to_json(value)) == read


@pytest.mark.parametrize("value", ["\ud800", object()])
def test_what_json_does_not_have_is_an_error(value: Any) -> None:
    with pytest.raises(PydanticSerializationError):
        to_json(value)
