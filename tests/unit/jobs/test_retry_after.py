"""Whatever a server writes into `Retry-After` is a pause within bounds, or no hint; never an error."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.retry_after import LONGEST_RETRY_AFTER, pause_in_words, retry_after

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "pause"),
    [
        ("7", timedelta(seconds=7)),
        (" 0.5 ", timedelta(milliseconds=500)),
        ("0", timedelta(0)),
        ("1e300", LONGEST_RETRY_AFTER),
        ("9" * 40, LONGEST_RETRY_AFTER),
        ("Sun, 22 Nov 2026 12:01:00 GMT", timedelta(minutes=1)),
        ("Sun, 22 Nov 2026 12:01:00 -0000", timedelta(minutes=1)),
        ("Sun, 22 Nov 2026 12:01:00", timedelta(minutes=1)),
        ("Sun, 22 Nov 2026 14:01:00 +0200", timedelta(minutes=1)),
        ("Sun, 22 Nov 2026 11:00:00 GMT", timedelta(0)),
        ("Sat, 01 Jan 0001 00:00:00 +2359", timedelta(0)),
        ("Fri, 31 Dec 9999 23:59:59 -2359", LONGEST_RETRY_AFTER),
        *(
            (nonsense, None)
            for nonsense in (
                *("", "-1", "NaN", "inf", "Infinity", "tomorrow", "1_0", "0x10", "1e999999", "1,5", "9" * 5000),
                *("²", "٣", "7\xa0s", "\x00", "ÿ" * 10),
                "Mon, 99 Foo 2026",
                "Sun, 22 Nov 99999999999 12:01:00 GMT",
                "Sun, 22 Nov 20269 12:01:00 GMT",
                "Sun, 22 Nov 2026 12:01:99999999999 GMT",
                "Sun, 22 Nov 2026 12:01:00 +9999",
                "Sun, 22 Nov 2026 12:01:00 +99999999999999",
            )
        ),
    ],
)
def test_it_is_a_pause_or_no_hint(value: str, pause: timedelta | None) -> None:
    assert retry_after(value, NOW) == pause


DATES = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Sun", "", "Foo"]),
    *(st.integers(-99, 10**12), st.sampled_from(["Nov", "Foo", ""])),
    *(st.integers(-(10**12), 10**12) for _ in range(4)),
    st.sampled_from(["GMT", "-0000", "+0200", "+9999", "+99999999999", "EST", "", "nowhere"]),
)
NUMBERS = st.floats().map(str) | st.integers().map(str) | st.from_regex(r"[0-9]+e[+-]?[0-9]+", fullmatch=True)


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")) | DATES | NUMBERS)
@example("1e999999")
def test_nothing_breaks_it(value: str) -> None:
    pause = retry_after(value, NOW)
    assert pause is None or timedelta(0) <= pause <= LONGEST_RETRY_AFTER


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached: Limit 3, Used 3, Requested 1. Please try again in 20s. Visit https://a.b/c 5s", 20),
        ("Please try again in 6.379s.", 6.379),
        ("Please try again in 644ms.", 0.644),
        ("Please try again in 1m26.4s.", 86.4),
        ("Please try again in 1h3m0s", 3780),
        ("Please retry after 26 seconds.", 26),
        ("please wait 2 minutes and 5 seconds", 125),
        ("Retry in 1 d, 2 hrs", 93_600),
        ("Try again in 250 milliseconds", 0.25),
        ("Please try again in 999999999d", LONGEST_RETRY_AFTER.total_seconds()),
        ("Please try again in 20 dollars", None),
        ("Please try again in 3 months", None),
        ("Please try again later. It took 20s.", None),
        ("Please try again in a moment", None),
        ("I retry 3 times", None),
        ("", None),
    ],
)
def test_a_pause_in_words(message: str, seconds: float | None) -> None:
    assert pause_in_words(message) == (None if seconds is None else timedelta(seconds=seconds))


@given(st.text() | st.from_regex(r"try again in ([0-9.]+[smhd]{1,2} ?){0,9}"))
@example("try again in " + "1s " * 10_000)
def test_no_words_break_it(message: str) -> None:
    pause = pause_in_words(message)
    assert pause is None or timedelta(0) <= pause <= LONGEST_RETRY_AFTER
