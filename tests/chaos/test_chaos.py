"""A short seeded run of `make chaos`; the long one is for people and nights."""

import pytest

from tests.chaos.__main__ import chaos


@pytest.mark.timeout(240)
def test_every_promise_holds_while_everything_is_hurt() -> None:
    assert "no violation" in chaos(150, seed=7, pace=8, pausing=False)
