"""Bodies and rows as JSON."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticSerializationError

from jobs.encoding import from_json, to_json, to_text
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


EXACT = ("79228162514264337593543950335", "-9223372036854775809", "1e400", "-1.5E-400", "0.10000000000000000555")


@pytest.mark.parametrize("number", [*EXACT, "9" * 5000, "18446744073709551615", "0.1", "1.0", "5e-324"])
def test_a_number_is_written_as_it_came(number: str) -> None:
    text = f'{{"maximum":[{number}]}}'
    value = from_json(text)
    assert to_json(value).decode() == to_text(value) == to_text(value, ascii_only=False) == text
    assert from_json(text) == value


@settings(deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False), st.text(), st.booleans())
def test_whatever_the_number_and_the_text_beside_it(number: Decimal, beside: str, ascii_only: bool) -> None:
    written = to_text(from_json(json.dumps([beside, 0]).replace(" 0]", f"{number}]")), ascii_only=ascii_only)
    reported, kept = json.loads(written, parse_float=Decimal, parse_int=Decimal)
    assert (reported, kept) == (beside, number)


def test_no_text_is_taken_for_a_number() -> None:
    texts = ["\\udc001", '"\\udc001"', "\N{RAT}1", "\udc00 1", '\udc00"']
    assert json.loads(to_text([*texts, from_json("1e400")], ascii_only=False), parse_float=str) == [*texts, "1e400"]
