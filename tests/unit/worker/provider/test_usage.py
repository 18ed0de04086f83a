"""Tokens and cost, read from whatever the provider sent."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.job import Cost, CostSource, Usage
from jobs.model_catalog import Model
from worker.provider.usage import cost_of_call, read_reported_usage, read_usage

PRICED = Model("some/model", input_price=Decimal("27.508"), output_price=Decimal("110.032"))
UNPRICED = Model("some/model")


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        ({"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}, Usage(3, 5, 8)),
        ({"input_tokens": 3, "output_tokens": 5}, Usage(3, 5, 8)),
        ({"input_tokens": 3, "output_tokens": 5, "total_tokens": None}, Usage(3, 5, 8)),
        ({"input_tokens": 3, "output_tokens": 5, "total_tokens": 9}, Usage(3, 5, 9)),
        ({"input_tokens": "137", "output_tokens": 3.0, "total_tokens": -1}, Usage(137, 3, 140)),
        ({"input_tokens": 3, "output_tokens": 5.5, "total_tokens": 7}, Usage(3, 4, 7)),
        ({"output_tokens": 5, "total_tokens": 8}, Usage(3, 5, 8)),
        ({"input_tokens": 3, "output_tokens": 5.5}, None),
        ({"input_tokens": 3, "total_tokens": 2}, None),
        ({"input_tokens": 10**13, "output_tokens": 1}, None),
        ({"input_tokens": True, "output_tokens": [1], "total_tokens": 4}, None),
        ({"total_tokens": 28}, None),
        ({"input_tokens": 0, "output_tokens": 0, "total_tokens": 28}, None),
        ({"prompt_tokens": 7, "completion_tokens": 21, "total_tokens": 28}, Usage(7, 21, 28)),
        ({"input_tokens": 7, "prompt_tokens": 1, "output_tokens": 21, "completion_tokens": 1}, Usage(7, 21, 28)),
        (
            {
                "prompt_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 2},
                "completion_tokens": 5,
                "completion_tokens_details": {"reasoning_tokens": 4},
            },
            Usage(3, 5, 8, cached_tokens=2, reasoning_tokens=4),
        ),
        (
            {
                "input_tokens": 3,
                "input_tokens_details": {"cached_tokens": 2},
                "output_tokens": 5,
                "output_tokens_details": None,
            },
            Usage(3, 5, 8, cached_tokens=2),
        ),
        ({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}, Usage()),
        ({}, None),
        ({"input_tokens": None}, None),
        ({"prompt_cost": 3}, None),
        (None, None),
        ([1, 2], None),
        ("many", None),
    ],
)
def test_usage(raw: object, usage: Usage | None) -> None:
    assert read_usage(raw) == usage


@pytest.mark.parametrize("details", [None, {}, 3, [], {"cached_tokens": None, "reasoning_tokens": "?"}])
def test_usage_in_openais_shape_has_zeros_for_missing_details(details: object) -> None:
    raw = {"input_tokens": 3, "input_tokens_details": details, "output_tokens": 5, "output_tokens_details": details}
    found = read_reported_usage(raw, None).as_json
    assert found is not None
    assert found["total_tokens"] == 8
    assert found["input_tokens_details"]["cached_tokens"] == 0
    assert found["input_tokens_details"]["cache_write_tokens"] == 0
    assert found["output_tokens_details"]["reasoning_tokens"] == 0


def test_usage_in_openais_shape_keeps_other_fields() -> None:
    details = {"cache_write_tokens": 2, "audio_tokens": 1}
    raw = {"input_tokens": 3, "input_tokens_details": details, "output_tokens": 0, "tier": "flex"}
    assert read_reported_usage(raw, None).as_json == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 2, "audio_tokens": 1},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 3,
        "tier": "flex",
    }


@pytest.mark.parametrize(
    ("meta", "dollars"),
    [
        ({"usage": {"usd_spent": 0.1}}, Decimal("0.1")),
        ({"usage": {"usd_spent": "0.000000123"}}, Decimal("0.000000123")),
        ({"usage": {"usd_spent": 2, "credits_used": 1}}, Decimal(2)),
        ({"usage": {"usd_spent": None, "credits_used": 3_000_000}}, Decimal("1.5")),
        ({"usage": {"usd_spent": 0}}, Decimal(0)),
        ({"usage": {"usd_spent": -1}}, None),
        ({"usage": {"usd_spent": "NaN"}}, None),
        ({"usage": {"usd_spent": "Infinity"}}, None),
        ({"usage": {"usd_spent": True}}, None),
        ({"usage": {"usd_spent": 10**9}}, None),
        ({"usage": {"usd_spent": "1 dollar"}}, None),
        ({"usage": [0.1]}, None),
        ({"usage": None}, None),
        ("cheap", None),
        (None, None),
    ],
)
def test_dollars_in_the_body(meta: object, dollars: Decimal | None) -> None:
    assert read_reported_usage(None, meta).dollars == dollars


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        ({"cost": 0.0123}, Decimal("0.0123")),
        ({"cost": "0.0123", "cost_in_usd_ticks": 1}, Decimal("0.0123")),
        ({"cost": 0}, Decimal(0)),
        ({"cost": None, "cost_in_usd_ticks": 123_000_000}, Decimal("0.0123")),
        ({"cost": {"total": 1}, "cost_in_usd_ticks": "37756000"}, Decimal("0.0037756")),
        ({"cost": -1, "cost_in_usd_ticks": -1}, None),
        ({"total_tokens": 28}, None),
    ],
)
def test_dollars_in_the_usage(usage: object, dollars: Decimal | None) -> None:
    assert read_reported_usage(usage, None).dollars == dollars


def test_the_meta_field_takes_precedence_over_usage() -> None:
    assert read_reported_usage({"cost": 9}, {"usage": {"credits_used": 1_000_000}}).dollars == Decimal("0.5")


@pytest.mark.parametrize(
    ("dollars", "headers", "usage", "model", "cost"),
    [
        (Decimal("0.1"), {"x-aimlapi-usd-spent": "9"}, Usage(1, 1, 2), PRICED, Cost(100_000, CostSource.PROVIDER)),
        (None, {"x-aimlapi-usd-spent": "0.25"}, Usage(1, 1, 2), PRICED, Cost(250_000, CostSource.PROVIDER)),
        (None, {"x-aimlapi-credits-used": "2520"}, None, PRICED, Cost(1260, CostSource.PROVIDER)),
        (None, {"x-litellm-response-cost": "0.0123"}, None, PRICED, Cost(12_300, CostSource.PROVIDER)),
        (None, {"x-litellm-response-cost": "None"}, None, PRICED, None),
        (None, {"x-aimlapi-usd-spent": "-1"}, Usage(1000, 1000, 2000), PRICED, Cost(137_540, CostSource.PRICE_TABLE)),
        (None, {}, Usage(1000, 1000, 2000), UNPRICED, None),
        (None, {}, None, PRICED, None),
        (Decimal("0.0000005"), {}, None, UNPRICED, Cost(1, CostSource.PROVIDER)),
    ],
)
def test_cost_comes_from_the_body_then_the_headers_then_the_table(
    dollars: Decimal | None, headers: dict[str, str], usage: Usage | None, model: Model, cost: Cost | None
) -> None:
    assert cost_of_call(dollars, headers, usage, model) == cost


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    (
        *("input_tokens", "output_tokens", "total_tokens", "input_tokens_details", "output_tokens_details"),
        *("prompt_tokens", "completion_tokens", "prompt_tokens_details", "cost", "cost_in_usd_ticks"),
    )
)


@given(
    usage=st.dictionaries(NAMES, JSON) | JSON,
    meta=st.fixed_dictionaries({"usage": st.fixed_dictionaries({"usd_spent": JSON})}),
)
def test_nothing_raises_and_no_count_is_negative_or_absurd(usage: object, meta: object) -> None:
    found = read_reported_usage(usage, meta)
    if found.tokens is not None:
        counts = (found.tokens.input_tokens, found.tokens.output_tokens, found.tokens.total_tokens)
        assert all(0 <= count <= 2 * 10**12 for count in counts)
    assert found.dollars is None or 0 <= found.dollars <= 10**6
