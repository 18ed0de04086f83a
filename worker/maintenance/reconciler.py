"""After a lost answer, asks the provider's own log whether the call ran and what it cost.

AI/ML API's `GET /v2/logs` shows one row per call with our `X-Client-Request-Id`. It cannot be filtered by that id, it
is late, and it may be asked 200 times a minute; a provider without it answers 404 and is left alone for an hour.
The answer itself cannot be fetched. This loop waits for the network, so it has a thread and a lease of its own.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from threading import Event, Thread
from time import monotonic
from typing import Any

import httpx
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

from jobs.job import Attempt, Cost, CostSource, Usage
from jobs.store.database import Database, database_now
from jobs.store.reconciliation import book_not_billed, book_true_cost, doubtful_attempts
from jobs.store.workers import take_lease
from jobs.telemetry import get_logger

EVERY = 10.0
LEASE = timedelta(seconds=20)
PATIENCE_SECONDS = 10.0
WINDOW = timedelta(hours=6)
BATCH = 500
PAGE = 100
MOST_PAGES = 20
CLOCK_SKEW = timedelta(minutes=5)
OFF_SECONDS = 3600.0
MICROUSD = 1_000_000

log = get_logger(__name__)


class LogUnavailable(Exception):
    """The provider's log did not answer this time."""


@dataclass(frozen=True)
class Entry:
    """What the provider's log says of one call."""

    succeeded: bool
    cost: Cost
    usage: Usage


class Reconciler:
    """One process's share; only the holder of the lease asks."""

    def __init__(
        self,
        database: Database,
        url: str,
        api_key: SecretStr | None,
        *,
        after: timedelta,
        holder: Callable[[], str | None],
    ) -> None:
        """Calls are asked about once they have been over for `after`; `holder` is who we are, if anybody yet."""
        self._database = database
        self._url = url
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key.get_secret_value().strip()}"}
        self._after = after
        self._holder = holder
        self._off_until = float("-inf")
        self._stopping = Event()
        self._thread = Thread(target=self._loop, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the request at hand."""
        self._stopping.set()

    def _loop(self) -> None:
        pause = min(EVERY, max(1.0, self._after.total_seconds()))
        while not self._stopping.wait(pause):
            try:
                self.run_once(datetime.now(UTC))
            except (LogUnavailable, SQLAlchemyError) as error:
                log.warning("not reconciled", error=str(error) or type(error).__name__)
            except Exception:  # one odd row must not end reconciliation for good
                log.exception("reconciliation broke")

    def run_once(self, now: datetime) -> int:
        """Ask about what is in doubt; returns of how many calls the log knew.

        Raises:
            LogUnavailable: it did not answer.
            SQLAlchemyError: the database did not.
        """
        holder = self._holder()
        if holder is None or monotonic() < self._off_until:
            return 0
        with self._database.read() as tx:
            doubtful = doubtful_attempts(tx, now - WINDOW, now - self._after, BATCH)
        if not doubtful:
            return 0
        with self._database.begin() as tx:
            if not take_lease(tx, "reconciliation", holder, database_now(tx), LEASE):
                return 0
        return self._book(doubtful, now)

    def _book(self, doubtful: list[Attempt], now: datetime) -> int:
        wanted = {f"{each.job_id}:{each.number}": each for each in doubtful}
        known = 0
        for request_id, entry in self._entries(min(each.started_at for each in doubtful), now):
            attempt = wanted.pop(request_id, None)
            if attempt is not None:
                with self._database.begin() as tx:
                    if entry.succeeded:
                        book_true_cost(tx, attempt, entry.cost, entry.usage, now)
                    else:
                        book_not_billed(tx, attempt, now)
                log.info(
                    "reconciled",
                    job_id=attempt.job_id,
                    attempt=attempt.number,
                    succeeded=entry.succeeded,
                    cost_microusd=entry.cost.microusd,
                )
                known += 1
            if not wanted:
                break
        return known

    def _entries(self, since: datetime, now: datetime) -> Iterator[tuple[str, Entry]]:
        """What the log has on our calls since a moment, newest first."""
        span = {"start": _iso(since - CLOCK_SKEW), "end": _iso(now + CLOCK_SKEW)}
        with httpx.Client(timeout=PATIENCE_SECONDS, headers=self._headers) as client:
            for number in range(MOST_PAGES):
                page = self._page(client, {**span, "limit": str(PAGE), "offset": str(number * PAGE)})
                rows = page.get("data")
                for row in rows if isinstance(rows, list) else []:
                    if isinstance(row, dict) and isinstance(row.get("client_request_id"), str):
                        entry = read_entry(row)
                        if entry is not None:
                            yield row["client_request_id"], entry
                pagination = page.get("pagination")
                if self._stopping.is_set() or not (isinstance(pagination, dict) and pagination.get("has_more")):
                    return

    def _page(self, client: httpx.Client, query: Mapping[str, str]) -> Mapping[str, Any]:
        try:
            answer = client.get(self._url, params=dict(query))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise LogUnavailable(type(error).__name__) from None
        if answer.status_code in {404, 405, 501}:
            self._off_until = monotonic() + OFF_SECONDS
            log.info("the provider keeps no log of calls", http_status=answer.status_code)
            return {}
        if not answer.is_success:
            raise LogUnavailable(f"HTTP {answer.status_code}")
        try:
            body = answer.json()
        except ValueError:
            raise LogUnavailable("not JSON") from None
        return body if isinstance(body, dict) else {}


def read_entry(row: Mapping[str, Any]) -> Entry | None:
    """One row of the log; None where it says neither that the call succeeded nor that it failed, or not its price."""
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
    return Entry(succeeded, Cost(microusd, CostSource.PROVIDER), usage)


def _microusd(cost: object) -> int | None:
    usd = cost.get("usd") if isinstance(cost, dict) else None
    if isinstance(usd, bool) or not isinstance(usd, int | float | str):
        return None
    try:
        amount = Decimal(str(usd)) * MICROUSD
    except InvalidOperation:
        return None
    return round(amount) if amount.is_finite() and amount >= 0 else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
