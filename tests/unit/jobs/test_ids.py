"""Identifiers sort by time, and a span of time is a span of ids."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.ids import EPOCH, first_id_at, may_be_id, new_id


def test_an_id_says_what_it_names() -> None:
    assert re.fullmatch(r"resp_[0-9a-f]{32}", new_id("resp"))
    assert new_id("key").startswith("key_")


def test_later_ones_sort_after_earlier_ones() -> None:
    """Also within a millisecond."""
    ids = [new_id("resp") for _ in range(20_000)]
    assert ids == sorted(set(ids))


def test_threads_never_share_one() -> None:
    with ThreadPoolExecutor(4) as threads:
        made = [each for ids in threads.map(lambda _: [new_id("resp") for _ in range(2_000)], range(4)) for each in ids]
    assert len(set(made)) == 8_000


def test_an_id_made_now_lies_between_the_bounds_of_its_moment() -> None:
    before = datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1000, UTC)
    made = new_id("resp")
    after = datetime.now(UTC) + timedelta(milliseconds=1)
    assert first_id_at("resp", before) <= made < first_id_at("resp", after)


@given(st.integers(0, 253_402_300_799_999), st.integers(0, 999))
def test_a_bound_is_the_moments_millisecond(milliseconds: int, microseconds: int) -> None:
    moment = EPOCH + timedelta(milliseconds=milliseconds, microseconds=microseconds)
    assert first_id_at("resp", moment) == f"resp_{milliseconds:012x}" + "0" * 20


def test_moments_before_and_beyond_what_an_id_can_hold_are_clamped() -> None:
    assert first_id_at("resp", datetime(1900, 1, 1, tzinfo=UTC)) == "resp_" + "0" * 32
    assert len(first_id_at("resp", datetime.max.replace(tzinfo=UTC))) == len(new_id("resp"))


@pytest.mark.parametrize("foreign", ["", "\0", "resp_\0", "resp_é", "resp 1", "y" * 50_000_000, 7, None, ["resp_1"]])
def test_foreign_messages_in_the_queue_are_no_ids(foreign: object) -> None:
    """A worker sent 50 MB of it to the database and to the log, and its heartbeat failed meanwhile."""
    assert may_be_id(new_id("resp"))
    assert not may_be_id(foreign)
