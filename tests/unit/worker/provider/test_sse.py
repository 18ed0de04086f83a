"""Server-sent events, however their bytes are split."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.provider.sse import EventParser, EventTooLarge, ServerSentEvent

STREAM = (
    b"\xef\xbb\xbf: a comment\n\n"
    b'event: one\ndata: {"a": 1}\n\n'
    b"data: two\r\ndata:lines\r\n\r\n"
    b"id: 7\rdata:  spaced\r\r"
    b"event: without data\n\n"
    b"data\n\n"
    b"data: unfinished"
)
EVENTS = [
    ServerSentEvent("one", b'{"a": 1}'),
    ServerSentEvent("", b"two\nlines"),
    ServerSentEvent("", b" spaced"),
    ServerSentEvent("", b""),
]


def parse(chunks: list[bytes], limit: int = 1000) -> tuple[list[ServerSentEvent], EventParser]:
    parser = EventParser(limit)
    return [event for chunk in chunks for event in parser.feed(chunk)], parser


def test_every_form_of_the_standard() -> None:
    events, parser = parse([STREAM])
    assert events == EVENTS
    assert parser.is_amid_event
    assert parser.end() == ServerSentEvent("", b"unfinished")
    assert parser.end() is None


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:end] for start, end in pairwise(places)]
    assert parse(chunks)[0] == EVENTS


def test_byte_by_byte() -> None:
    assert parse([bytes((byte,)) for byte in STREAM])[0] == EVENTS


def test_an_event_beyond_the_limit_is_not_collected() -> None:
    with pytest.raises(EventTooLarge):
        parse([b"data: " + b"x" * 50] * 3, limit=100)


def test_comments_are_unlimited() -> None:
    events, parser = parse([b": still here\n\n"] * 100 + [b"data: done\n\n"], limit=100)
    assert events == [ServerSentEvent("", b"done")]
    assert not parser.is_amid_event
