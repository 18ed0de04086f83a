"""The provider's own log of calls, read with care: AI/ML API's `GET /v2/logs`.

It shows one row per call with our `X-Client-Request-Id`, but cannot be filtered by it. It is late, may lack rows, and
allows 200 requests a minute. https://docs.aimlapi.com/capabilities/request-tracing-and-cost
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import httpx
from pydantic import SecretStr

from jobs.job import Cost, CostSource, Usage
from jobs.model_catalog import to_microusd
from worker.maintenance.task import NoAnswer

MAX_WAIT_SECONDS = 10.0
PAGE = 100
MOST_PAGES = 20
CLOCK_SKEW = timedelta(minutes=5)
NOT_THERE = frozenset({404, 405, 501})
NOT_FOR_US = frozenset({401, 403})
MOST_TOKENS = 10**12
MOST_DOLLARS = Decimal(10**6)


class LogOff(Exception):
    """There is no log, or none that our key may read."""


@dataclass(frozen=True)
class Entry:
    """One call in the log. A call that cost money `ran`, whatever its status is."""

    ran: bool
    cost: Cost
    usage: Usage


class ProviderLog:
    """The log at a URL, read with the provider's API key."""

    def __init__(self, url: str, api_key: SecretStr | None) -> None:
        self._url = url
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key.get_secret_value().strip()}"}

    def entries(self, since: datetime, until: datetime) -> Iterator[tuple[str, Entry]]:
        """Yield the calls between two moments, newest first, each with its `X-Client-Request-Id`.

        Raises:
            LogOff: there is no such log, or our key may not read it.
            NoAnswer: it did not answer this time.
        """
        span = {"start": _iso(since - CLOCK_SKEW), "end": _iso(until + CLOCK_SKEW)}
        with httpx.Client(timeout=MAX_WAIT_SECONDS, headers=self._headers) as client:
            for number in range(MOST_PAGES):
                page = self._page(client, {**span, "limit": str(PAGE), "offset": str(number * PAGE)})
                rows = page.get("data")
                for row in rows if isinstance(rows, list) else []:
                    if isinstance(row, dict) and isinstance(row.get("client_request_id"), str):
                        entry = read_entry(row)
                        if entry is not None:
                            yield row["client_request_id"], entry
                pagination = page.get("pagination")
                if not (isinstance(pagination, dict) and pagination.get("has_more") is True):
                    return

    def _page(self, client: httpx.Client, query: Mapping[str, str]) -> Mapping[str, Any]:
        try:
            answer = client.get(httpx.URL(self._url).copy_merge_params(dict(query)))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoAnswer(type(error).__name__) from None
        if answer.status_code in NOT_THERE | NOT_FOR_US:
            raise LogOff(f"HTTP {answer.status_code}")
        if not answer.is_success:
            raise NoAnswer(f"HTTP {answer.status_code}")
        try:
            body = answer.json()
        except ValueError:
            raise NoAnswer("not JSON") from None
        if not isinstance(body, dict) or not isinstance(body.get("data"), list):
            raise NoAnswer("not a log")
        return body


def read_entry(row: Mapping[str, Any]) -> Entry | None:
    """Return a row of the log. None if it lacks a final status, or the cost of a call that succeeded."""
    if row.get("status") not in ("succeeded", "failed"):
        return None
    succeeded = row["status"] == "succeeded"
    microusd = _microusd(row.get("cost"))
    if microusd is None:
        if succeeded:
            return None
        microusd = 0
    tokens = row.get("tokens")
    counts = tokens if isinstance(tokens, dict) else {}
    usage = Usage(_count(counts.get("input")), _count(counts.get("output")), _count(counts.get("total")))
    return Entry(succeeded or microusd > 0, Cost(microusd, CostSource.PROVIDER), usage)


def _microusd(cost: object) -> int | None:
    usd = cost.get("usd") if isinstance(cost, dict) else None
    if isinstance(usd, bool) or not isinstance(usd, int | float | str) or len(str(usd)) > 40:
        return None
    try:
        amount = Decimal(str(usd))
    except InvalidOperation:
        return None
    return to_microusd(amount) if amount.is_finite() and 0 <= amount <= MOST_DOLLARS else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS else 0


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
