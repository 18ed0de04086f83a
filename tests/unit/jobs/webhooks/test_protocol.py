"""Envelope, signature and schedule, as pure functions."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from jobs.lifecycle import TERMINAL
from jobs.webhooks.protocol import (
    EVENT_OF,
    MAX_FAILURES,
    SCHEDULE,
    EventType,
    delay_after,
    envelope,
    key_of,
    new_secret,
    signature,
    signed_headers,
)

MOMENT = datetime(2021, 2, 25, 15, 2, 10, 999_999, tzinfo=UTC)


class TestSignature:
    def test_the_known_answer_of_the_reference(self) -> None:
        """The vector that the Standard Webhooks libraries of every language test themselves with."""
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    def test_one_signature_per_secret_and_none_without(self) -> None:
        headers = signed_headers(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "plain"], "evt_1", MOMENT, b"{}")
        assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("evt_1", "1614265330")
        assert headers["webhook-signature"].split() == [
            signature("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "evt_1", 1614265330, b"{}"),
            signature("plain", "evt_1", 1614265330, b"{}"),
        ]
        assert "webhook-signature" not in signed_headers([], "evt_1", MOMENT, b"{}")

    def test_a_secret_without_prefix_signs_as_it_stands(self) -> None:
        assert key_of("tëll nobody") == "tëll nobody".encode()
        assert key_of(new_secret(b"\x00" * 32)) == b"\x00" * 32

    @pytest.mark.parametrize("secret", ["whsec_", "whsec_not base64", "whsec_*"])
    def test_a_broken_secret_is_refused(self, secret: str) -> None:
        with pytest.raises(ValueError, match="base64"):
            key_of(secret)


def test_the_envelope_is_openais() -> None:
    body = envelope("evt_1", EventType.COMPLETED, "resp_1", MOMENT)
    assert json.loads(body) == {
        "id": "evt_1",
        "object": "event",
        "created_at": 1614265330,
        "type": "response.completed",
        "data": {"id": "resp_1"},
    }


def test_every_end_of_a_response_is_an_event() -> None:
    assert set(EVENT_OF) == TERMINAL
    assert set(EVENT_OF.values()) == set(EventType)


class TestSchedule:
    def test_ten_tries_over_three_days(self) -> None:
        delays = [delay_after(failures, jitter=0) for failures in range(1, MAX_FAILURES)]
        assert delays == list(SCHEDULE)
        assert delay_after(MAX_FAILURES, jitter=0) is None
        assert MAX_FAILURES == 10
        assert timedelta(days=3) < sum(SCHEDULE, timedelta()) < timedelta(days=4)

    def test_jitter_makes_it_up_to_a_tenth_longer(self) -> None:
        for failures, delay in enumerate(SCHEDULE, 1):
            later = delay_after(failures, jitter=0.999)
            assert later is not None
            assert delay < later < delay * 1.1

    def test_retry_after_is_a_floor_of_a_day_at_most(self) -> None:
        assert delay_after(1, jitter=0, retry_after=timedelta(minutes=1)) == timedelta(minutes=1)
        assert delay_after(3, jitter=0, retry_after=timedelta(minutes=1)) == SCHEDULE[2]
        assert delay_after(1, jitter=0, retry_after=timedelta(days=30)) == timedelta(days=1)
