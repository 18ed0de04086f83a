"""Any bytes give either a body or a 400 that names the fault."""

import contextlib
import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.request.body import parse_request
from api.request.decode import MAX_DEPTH, read_object
from jobs.encoding import to_text
from jobs.errors import RequestInvalid


def nested(levels: int) -> bytes:
    """Return an object with so many levels, including itself."""
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(
    ("raw", "fragment"),
    [
        (b"", "body is empty"),
        (b" \r\n\t", "body is empty"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"{", "not valid JSON: Expecting property name enclosed in double quotes (line 1, column 2)"),
        (b'{"a": 1}\n{"a": 1}', "not valid JSON: Extra data (line 2, column 1)"),
        (b"model=m&input=x", "not valid JSON"),
        (b'{"a": "\n"}', "not valid JSON: Invalid control character"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": [-Infinity]}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "a number that is too large"),
        (b'{"a": 18446744073709551616}', "an integer that does not fit into 64 bits"),
        (b'{"a": -9223372036854775809}', "an integer that does not fit into 64 bits"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "an integer that does not fit into 64 bits"),
        (b'{"a": 1, "b": 2, "a": 1}', "names the key 'a' twice"),
        (b'{"b": [{"\\ud800": 1, "\\ud800": 2}]}', "names the key '\\ud800' twice"),
        (b'{"a": "\xff"}', "not valid UTF-8 (at byte 7)"),
        (b'{"a": "\xed\xa0\x80"}', "not valid UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not valid UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
        (nested(MAX_DEPTH + 1), "nested too deeply"),
        (nested(100_000), "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_bytes_that_are_not_a_json_object_are_refused(raw: bytes, fragment: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        parse_request(raw)
    assert fragment in caught.value.message
    assert (caught.value.param, caught.value.code) == (None, "invalid_json")
    caught.value.message.encode()  # it is sent as UTF-8


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b'{"input": "\\ud83d"}', "input"),
        (b'{"model": 1, "input": [{"a": ["\\uDE00 x"]}]}', "input"),
        (b'{"metadata": {"\\ud83d": 1}}', "metadata"),
        (b'{"\\udfff": 1}', None),
    ],
)
def test_half_of_a_surrogate_pair_is_refused(raw: bytes, param: str | None) -> None:
    with pytest.raises(RequestInvalid, match="half of a surrogate pair") as caught:
        parse_request(raw)
    assert (caught.value.param, caught.value.code) == (param, "invalid_json")


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\N{GRINNING FACE}"}),
        (b'{"a": "\\\\ud83d"}', {"a": "\\ud83d"}),
        (b'{"a": "\\u0000"}', {"a": "\0"}),
        (b'{"a": 18446744073709551615, "b": -9223372036854775808}', {"a": 2**64 - 1, "b": -(2**63)}),
        (b'{"a": 1.0, "b": 1, "c": 5e-324, "d": 1e-999}', {"a": 1.0, "b": 1, "c": 5e-324, "d": 0.0}),
        (b' {"a": {"a": {}}} \n', {"a": {"a": {}}}),
    ],
)
def test_unusual_but_valid_json_is_read(raw: bytes, value: dict[str, Any]) -> None:
    found = read_object(raw)
    assert found == value
    assert [type(part) for part in found.values()] == [type(part) for part in value.values()]


def test_the_deepest_body_can_be_written_again_deep_in_the_stack() -> None:
    found = read_object(nested(MAX_DEPTH))

    def dive(levels: int) -> str:
        return dive(levels - 1) if levels else json.dumps(found)

    assert json.loads(dive(sys.getrecursionlimit() // 2)) == found


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with pytest.raises(RequestInvalid):
        parse_request(raw)


json_text = st.text(st.characters(codec=None, exclude_categories=()))  # including halves of surrogate pairs
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | json_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(json_text, inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.dictionaries(json_text, json_values, max_size=3))
def test_a_decoded_body_equals_the_sent_one_and_can_be_stored(value: dict[str, Any]) -> None:
    raw = json.dumps(value).encode()
    with contextlib.suppress(RequestInvalid):
        found = read_object(raw)
        assert json.loads(to_text(found)) == value
        to_text(found, ascii_only=False).encode()
