"""Bodies of ended responses, kept within bounds."""

import tracemalloc

from api.response_cache import LARGEST_BYTES, ROOM_BYTES, ResponseCache
from jobs.encoding import to_json


def test_those_asked_for_last_are_kept() -> None:
    rendered = ResponseCache()
    body = b"x" * LARGEST_BYTES
    fit = ROOM_BYTES // LARGEST_BYTES
    for number in range(fit):
        rendered.keep(f"resp_{number}", "etag", body)
    assert rendered.get("resp_0", "etag") == body
    rendered.keep("resp_new", "etag", body)
    assert rendered.get("resp_0", "etag") == rendered.get("resp_new", "etag") == body
    assert rendered.get("resp_1", "etag") is None


def test_one_that_is_too_large_is_not() -> None:
    rendered = ResponseCache()
    rendered.keep("resp_0", "etag", b"x" * (LARGEST_BYTES + 1))
    assert rendered.get("resp_0", "etag") is None


def test_what_is_kept_takes_no_more_than_its_length() -> None:
    """Whoever wrote it may have taken more for it than it has become."""
    rendered = ResponseCache()
    length = len(to_json({"output_text": "x" * 1_500}))
    tracemalloc.start()
    try:
        for number in range(200):
            rendered.keep(f"resp_{number}", "etag", to_json({"output_text": "x" * 1_500}))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 200 * length < taken < 1.5 * 200 * length
