"""The profiling benchmark looks for functions that exist. A renamed one would count as no time at all."""

import pytest

from benchmarks.profile import STEPS, _frames


@pytest.mark.parametrize("code", sorted({each for part in STEPS.values() for code in part.values() for each in code}))
def test_a_profiled_function_exists(code: str) -> None:
    assert _frames(code)
