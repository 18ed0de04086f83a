"""Tokens and cost of a call, read from what the provider sent.

Impossible counts and amounts (negative, not a number, absurdly large) count as absent: no bill is invented, and no
column overflows. Amounts are parsed as decimals from their own digits, never computed as floats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from jobs.job import Cost, CostSource, Usage
from jobs.model_catalog import Model, to_microusd

CREDITS_PER_DOLLAR: Final = 2_000_000
TICKS_PER_DOLLAR: Final = 10_000_000_000
"""Unit of the `cost_in_usd_ticks` that xAI sends."""
_INPUT_DETAILS: Final = ("input_tokens_details", "prompt_tokens_details")
_OUTPUT_DETAILS: Final = ("output_tokens_details", "completion_tokens_details")
_MOST_TOKENS: Final = 10**12
_MOST_DOLLARS: Final = Decimal(10**6)


@dataclass(frozen=True)
class ReportedUsage:
    """Token counts, the same in OpenAI's JSON shape, and the dollars that the provider's body names."""

    tokens: Usage | None
    as_json: dict[str, Any] | None
    dollars: Decimal | None


def read_reported_usage(usage: object, meta: object) -> ReportedUsage:
    """Read the `usage` and `meta` of a response object."""
    counted = read_usage(usage)
    json = None if counted is None else _usage_json(usage, counted)
    return ReportedUsage(counted, json, _dollars(_mapping(usage), _mapping(_mapping(meta).get("usage"))))


def read_usage(raw: object) -> Usage | None:
    """Return the tokens of a `usage` object, in the names of the Responses API or of chat completions.

    Return None if it does not separate input from output, as with a total alone: a split is not invented.
    """
    if not isinstance(raw, Mapping):
        return None
    input_tokens = _first_count(raw, "input_tokens", "prompt_tokens")
    output_tokens = _first_count(raw, "output_tokens", "completion_tokens")
    total = _count(raw.get("total_tokens"))
    if input_tokens is None and output_tokens is not None and total is not None and total >= output_tokens:
        input_tokens = total - output_tokens
    if output_tokens is None and input_tokens is not None and total is not None and total >= input_tokens:
        output_tokens = total - input_tokens
    if input_tokens is None or output_tokens is None or (input_tokens == output_tokens == 0 and total):
        return None
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=input_tokens + output_tokens if total is None else total,
        cached_tokens=_detail(raw, _INPUT_DETAILS, "cached_tokens"),
        reasoning_tokens=_detail(raw, _OUTPUT_DETAILS, "reasoning_tokens"),
    )


def _dollars(usage: Mapping[str, Any], meta_usage: Mapping[str, Any]) -> Decimal | None:
    """Return the first readable figure: of AI/ML API, then of OpenRouter, then of xAI."""
    figures = (
        _amount(meta_usage.get("usd_spent")),
        _of_parts(meta_usage.get("credits_used"), CREDITS_PER_DOLLAR),
        _amount(usage.get("cost")),
        _of_parts(usage.get("cost_in_usd_ticks"), TICKS_PER_DOLLAR),
    )
    return next((figure for figure in figures if figure is not None), None)


def cost_of_call(dollars: Decimal | None, headers: Mapping[str, str], usage: Usage | None, model: Model) -> Cost | None:
    """Return the cost by the provider's body, else its headers, else the price table; None if it is unknown."""
    figures = (
        dollars,
        _amount(headers.get("x-aimlapi-usd-spent")),
        _of_parts(headers.get("x-aimlapi-credits-used"), CREDITS_PER_DOLLAR),
        _amount(headers.get("x-litellm-response-cost")),
    )
    dollars = next((figure for figure in figures if figure is not None), None)
    if dollars is not None:
        return Cost(to_microusd(dollars), CostSource.PROVIDER)
    return None if usage is None else model.cost_of(usage)


def _usage_json(raw: object, usage: Usage) -> dict[str, Any]:
    given = dict(raw) if isinstance(raw, Mapping) else {}
    counts = asdict(usage)
    cached, reasoning = counts.pop("cached_tokens"), counts.pop("reasoning_tokens")
    written = _detail(given, _INPUT_DETAILS, "cache_write_tokens")
    input_details = {
        **_mapping(given.get("input_tokens_details")),
        "cached_tokens": cached,
        "cache_write_tokens": written,
    }
    output_details = {**_mapping(given.get("output_tokens_details")), "reasoning_tokens": reasoning}
    return {**given, **counts, "input_tokens_details": input_details, "output_tokens_details": output_details}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _detail(raw: Mapping[str, Any], groups: Sequence[str], name: str) -> int:
    return next((found for group in groups if (found := _count(_mapping(raw.get(group)).get(name)))), 0)


def _first_count(raw: Mapping[str, Any], *names: str) -> int | None:
    return next((found for name in names if (found := _count(raw.get(name))) is not None), None)


def _count(value: object) -> int | None:
    number = _decimal(value)
    if number is None or number != number.to_integral_value() or number > _MOST_TOKENS:
        return None
    return int(number)


def _of_parts(value: object, per_dollar: int) -> Decimal | None:
    """Return an amount that is given in parts of a dollar."""
    number = _decimal(value)
    return None if number is None else _amount(str(number / per_dollar))


def _amount(value: object) -> Decimal | None:
    number = _decimal(value)
    return None if number is None or number > _MOST_DOLLARS else number


def _decimal(value: object) -> Decimal | None:
    """Return a number of zero or more. `str` of a float gives back the digits that the provider sent."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > 40:
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() and number >= 0 else None
