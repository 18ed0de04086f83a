"""What a call used and what it cost, out of whatever the provider sent about it.

Counts and amounts that cannot be (negative, not a number, absurdly large) are taken for absent: a bill must not be
made up, and no column overflows. Amounts are read as decimals from their own digits, never computed as floats.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from jobs.job import Cost, CostSource, Usage
from jobs.models import Model, to_microusd

CREDITS_PER_DOLLAR: Final = 2_000_000
_MOST_TOKENS: Final = 10**12
_MOST_DOLLARS: Final = Decimal(10**6)


@dataclass(frozen=True)
class Spending:
    """Usage as counted, the same in OpenAI's JSON shape, and the dollars that the provider's body names."""

    usage: Usage | None
    usage_json: dict[str, Any] | None
    dollars: Decimal | None


def read_spending(usage: object, meta: object) -> Spending:
    """Read `usage` and `meta` of a response object."""
    counted = read_usage(usage)
    own = meta.get("usage") if isinstance(meta, Mapping) else None
    dollars = None
    if isinstance(own, Mapping):
        dollars = _amount(own.get("usd_spent"))
        if dollars is None:
            dollars = _from_credits(own.get("credits_used"))
    return Spending(counted, None if counted is None else _usage_json(usage, counted), dollars)


def read_usage(raw: object) -> Usage | None:
    """Tokens out of a `usage` object; None when it counts nothing."""
    if not isinstance(raw, Mapping):
        return None
    received, sent = _count(raw.get("input_tokens")), _count(raw.get("output_tokens"))
    total = _count(raw.get("total_tokens"))
    if received is None and sent is None and total is None:
        return None
    known = (received or 0) + (sent or 0)
    return Usage(
        input_tokens=received or 0,
        output_tokens=sent or 0,
        total_tokens=known if total is None else total,
        cached_tokens=_detail(raw, "input_tokens_details", "cached_tokens"),
        reasoning_tokens=_detail(raw, "output_tokens_details", "reasoning_tokens"),
    )


def cost_of_call(dollars: Decimal | None, headers: Mapping[str, str], usage: Usage | None, model: Model) -> Cost | None:
    """The cost by the provider's body, else its headers, else by the price table; None when nobody knows."""
    if dollars is None:
        dollars = _amount(headers.get("x-aimlapi-usd-spent"))
    if dollars is None:
        dollars = _from_credits(headers.get("x-aimlapi-credits-used"))
    if dollars is not None:
        return Cost(to_microusd(dollars), CostSource.PROVIDER)
    return None if usage is None else model.cost_of(usage)


def _usage_json(raw: object, usage: Usage) -> dict[str, Any]:
    given = dict(raw) if isinstance(raw, Mapping) else {}
    counts = asdict(usage)
    cached, reasoning = counts.pop("cached_tokens"), counts.pop("reasoning_tokens")
    written = _detail(given, "input_tokens_details", "cache_write_tokens")
    received = {**_mapping(given.get("input_tokens_details")), "cached_tokens": cached, "cache_write_tokens": written}
    sent = {**_mapping(given.get("output_tokens_details")), "reasoning_tokens": reasoning}
    return {**given, **counts, "input_tokens_details": received, "output_tokens_details": sent}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _detail(raw: Mapping[str, Any], group: str, name: str) -> int:
    return _count(_mapping(raw.get(group)).get(name)) or 0


def _count(value: object) -> int | None:
    number = _decimal(value)
    if number is None or number != number.to_integral_value() or number > _MOST_TOKENS:
        return None
    return int(number)


def _from_credits(value: object) -> Decimal | None:
    number = _decimal(value)
    return None if number is None else _amount(str(number / CREDITS_PER_DOLLAR))


def _amount(value: object) -> Decimal | None:
    number = _decimal(value)
    return None if number is None or number > _MOST_DOLLARS else number


def _decimal(value: object) -> Decimal | None:
    """A number of zero or more; `str` of a float gives back the digits that the provider sent."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > 40:
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() and number >= 0 else None
