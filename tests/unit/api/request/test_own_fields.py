"""Our own request fields: their valid values, and the errors for others."""

import base64
from typing import Any

import pytest

from api.request.body import LATEST_RUN_AT, LONGEST_DEADLINE_SECONDS, parse_request
from jobs.errors import RequestInvalid
from tests.unit.api.request.bodies import HELLO, body, encode, refusal, sent_on

KEY = base64.b64encode(b"k" * 24).decode()


GOOD = {
    "webhook": body(webhook={"url": "https://example.com:8443/hook?a=b"}),
    "webhook with all": body(
        webhook={"url": "http://127.0.0.1:9000/", "events": ["response.completed"], "secret": f"whsec_{KEY}"}
    ),
    "webhook with nulls": body(webhook={"url": "https://example.com", "events": None, "secret": None}),
    "webhook with a secret of plain text": body(webhook={"url": "https://example.com", "secret": "tell nobody of it"}),
    "own fields": body(max_attempts=20, deadline_seconds=0.5, on_unknown_outcome="fail", priority=0, run_at=1.9e9),
    "own fields at their limits": body(
        max_attempts=1, deadline_seconds=LONGEST_DEADLINE_SECONDS, priority=9, run_at=LATEST_RUN_AT
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_our_fields_are_accepted_and_not_sent_to_the_provider(name: str) -> None:
    parsed = parse_request(encode(GOOD[name]))
    assert parsed.body == GOOD[name]
    assert sent_on(parsed) == HELLO


BAD: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "webhook as text": (body(webhook="https://a"), "webhook", "invalid_type", "expected an object, but got a string"),
    "webhook without URL": (body(webhook={}), "webhook.url", "missing_required_parameter", "'webhook.url'"),
    "webhook misspelt": (
        body(webhook={"url": "https://example.com", "event": []}),
        "webhook.event",
        "unknown_parameter",
        "Unknown parameter: 'webhook.event'.",
    ),
    "webhook to another scheme": (
        body(webhook={"url": "file:///etc/passwd"}),
        "webhook.url",
        "invalid_value",
        "Invalid 'webhook.url': expected an absolute http or https URL.",
    ),
    "webhook to nowhere": (body(webhook={"url": "https:///path"}), "webhook.url", "invalid_value", "absolute"),
    "webhook to no port": (body(webhook={"url": "https://a:99999/"}), "webhook.url", "invalid_value", "absolute"),
    "webhook to a broken host": (body(webhook={"url": "https://[::1"}), "webhook.url", "invalid_value", "absolute"),
    "webhook with a line break": (body(webhook={"url": "https://a/\r\nx"}), "webhook.url", "invalid_value", "absolute"),
    "webhook with a NUL": (body(webhook={"url": "https://a/\0"}), "webhook.url", "invalid_value", "NUL"),
    "webhook with a password": (
        body(webhook={"url": "https://me:secret@example.com"}),
        "webhook.url",
        "invalid_value",
        "a user name or password in the URL is not supported.",
    ),
    "webhook with a long URL": (
        body(webhook={"url": f"https://a/{'x' * 2048}"}),
        "webhook.url",
        "string_above_max_length",
        "Expected a string with maximum length 2048",
    ),
    "webhook for nothing": (
        body(webhook={"url": "https://example.com", "events": []}),
        "webhook.events",
        "empty_array",
        "Invalid 'webhook.events': empty array. Expected an array with minimum length 1, but got an empty array",
    ),
    "webhook for too much": (
        body(webhook={"url": "https://example.com", "events": ["response.failed"] * 17}),
        "webhook.events",
        "array_above_max_length",
        "Expected an array with maximum length 16, but got an array with length 17 instead.",
    ),
    "webhook for an unknown event": (
        body(webhook={"url": "https://example.com", "events": ["response.queued"]}),
        "webhook.events[0]",
        "invalid_value",
        "'response.completed', 'response.failed', 'response.cancelled', and 'response.incomplete'.",
    ),
    "webhook with an empty secret": (
        body(webhook={"url": "https://example.com", "secret": ""}),
        "webhook.secret",
        "empty_string",
        "Invalid 'webhook.secret': empty string. Expected a string with minimum length 1, but got an empty string",
    ),
    "webhook with a bad secret": (
        body(webhook={"url": "https://example.com", "secret": "whsec_***"}),
        "webhook.secret",
        "invalid_value",
        "Invalid 'webhook.secret': expected base64 after 'whsec_'.",
    ),
    "webhook with no secret after all": (
        body(webhook={"url": "https://example.com", "secret": "whsec_"}),
        "webhook.secret",
        "invalid_value",
        "expected base64",
    ),
    "webhook with a secret that can be guessed": (
        body(webhook={"url": "https://example.com", "secret": "x"}),
        "webhook.secret",
        "invalid_value",
        "Invalid 'webhook.secret': expected at least 16 bytes, better 24 to 64 random ones.",
    ),
    "webhook with a secret of 15 bytes": (
        body(webhook={"url": "https://example.com", "secret": "whsec_" + "QUFB" * 5}),
        "webhook.secret",
        "invalid_value",
        "expected at least 16 bytes",
    ),
    "no attempts": (body(max_attempts=0), "max_attempts", "integer_below_min_value", "Expected a value >= 1"),
    "too many attempts": (
        body(max_attempts=21),
        "max_attempts",
        "integer_above_max_value",
        "Invalid 'max_attempts': integer above maximum value. Expected a value <= 20, but got 21 instead.",
    ),
    "no time": (
        body(deadline_seconds=0.0),
        "deadline_seconds",
        "decimal_below_min_value",
        "Invalid 'deadline_seconds': decimal below minimum value. Expected a value > 0, but got 0 instead.",
    ),
    "too much time": (
        body(deadline_seconds=LONGEST_DEADLINE_SECONDS + 0.5),
        "deadline_seconds",
        "decimal_above_max_value",
        "Expected a value <= 2592000, but got 2592000.5 instead.",
    ),
    "time as a switch": (
        body(deadline_seconds=True),
        "deadline_seconds",
        "invalid_type",
        "a number, but got a boolean",
    ),
    "time as text": (body(deadline_seconds="60"), "deadline_seconds", "invalid_type", "a number, but got a string"),
    "unknown policy": (
        body(on_unknown_outcome="pray"),
        "on_unknown_outcome",
        "invalid_value",
        "Supported values are: 'retry' and 'fail'.",
    ),
    "low priority": (body(priority=-1), "priority", "integer_below_min_value", "Expected a value >= 0, but got -1"),
    "high priority": (body(priority=10), "priority", "integer_above_max_value", "Expected a value <= 9, but got 10"),
    "decimal priority": (body(priority=5.5), "priority", "invalid_type", "an integer, but got a decimal number"),
    "start in milliseconds": (body(run_at=1_900_000_000_000), "run_at", "integer_above_max_value", "<= 253402300799"),
    "start before time": (body(run_at=-1), "run_at", "integer_below_min_value", "Expected a value >= 0, but got -1"),
    "start as a date": (body(run_at="2030-01-01"), "run_at", "invalid_type", "expected a number, but got a string"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_body_is_refused_with_the_path_of_the_wrong_field(name: str) -> None:
    sent, param, code, fragment = BAD[name]
    error = refusal(sent)
    assert (error.param, error.code) == (param, code)
    assert fragment in error.message


def test_the_server_may_allow_more_or_fewer_attempts() -> None:
    assert parse_request(encode(body(max_attempts=50)), max_attempts_limit=50).fields.max_attempts == 50
    with pytest.raises(RequestInvalid, match="Expected a value <= 3, but got 4 instead"):
        parse_request(encode(body(max_attempts=4)), max_attempts_limit=3)
