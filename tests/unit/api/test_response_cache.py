"""The response cache keeps within its limits."""

import tracemalloc

from api.response_cache import LARGEST_BYTES, ROOM_BYTES, ResponseCache
from jobs.encoding import to_json


def test_the_bodies_used_last_are_kept() -> None:
    cache = ResponseCache()
    body = b"x" * LARGEST_BYTES
    fit = ROOM_BYTES // LARGEST_BYTES
    for number in range(fit):
        cache.keep(f"resp_{number}", "etag", body)
    assert cache.get("resp_0", "etag") == body
    cache.keep("resp_new", "etag", body)
    assert cache.get("resp_0", "etag") == cache.get("resp_new", "etag") == body
    assert cache.get("resp_1", "etag") is None


def test_a_body_that_is_too_large_is_not_kept() -> None:
    cache = ResponseCache()
    cache.keep("resp_0", "etag", b"x" * (LARGEST_BYTES + 1))
    assert cache.get("resp_0", "etag") is None


def test_a_kept_body_takes_no_more_memory_than_its_length() -> None:
    """orjson may have allocated far more than the length of what it returns."""
    cache = ResponseCache()
    length = len(to_json({"output_text": "x" * 1_500}))
    tracemalloc.start()
    try:
        for number in range(200):
            cache.keep(f"resp_{number}", "etag", to_json({"output_text": "x" * 1_500}))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 200 * length < taken < 1.5 * 200 * length
