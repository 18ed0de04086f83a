"""Ending streams, waits and held creates when their API key is revoked.

One query reads all keys in use in this process every `LOOK_EVERY` seconds, and at once after a notification. A
notification is only a reason to look; the database decides. Keys created or revoked by any process are logged.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Final

from jobs.asyncio_tasks import cancel_and_wait
from jobs.store.api_keys import ApiKey, changed_keys, find_keys
from jobs.store.database import DATABASE_ERRORS, Database, database_now
from jobs.telemetry import get_logger

LOOK_EVERY: Final = 2.0
LEAST_PAUSE: Final = 0.2
"""Seconds between two looks, however many notifications come."""
OVERLAP: Final = timedelta(minutes=1)
"""Time after its timestamp within which a change may be committed and still be logged."""

log = get_logger(__name__)


class KeyWatch:
    """Watches the keys of all held answers, for one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watched: dict[str, set[asyncio.Future[None]]] = {}
        self._soon = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._begun_at: datetime | None = None
        self._logged: set[tuple[str, str]] = set()

    async def start(self) -> None:
        """Start looking; changes from now on are logged."""
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            await cancel_and_wait(self._task)

    def look_soon(self) -> None:
        """Look now: a key may have been revoked."""
        self._soon.set()

    @contextmanager
    def watch(self, sha256: str) -> "Iterator[asyncio.Future[None]]":
        """Yield a future that is done once the key with this SHA-256 is no longer valid."""
        revoked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watched.setdefault(sha256, set()).add(revoked)
        try:
            yield revoked
        finally:
            others = self._watched[sha256]
            others.discard(revoked)
            if not others:
                del self._watched[sha256]

    async def _look(self) -> None:
        while True:
            self._soon.clear()
            await self._look_once()
            await asyncio.sleep(LEAST_PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY - LEAST_PAUSE):
                    await self._soon.wait()

    async def _look_once(self) -> None:
        watched = set(self._watched)
        try:
            self._log_changes(await asyncio.to_thread(self._changes))
            valid = await asyncio.to_thread(self._valid_among, watched) if watched else watched
        except DATABASE_ERRORS as error:  # while the database is away, no answers can be read either
            log.warning("revoked keys not read", error=type(error).__name__)
            return
        for sha256 in watched - valid:
            ended = [each for each in self._watched.get(sha256, ()) if not each.done()]
            for each in ended:
                each.set_result(None)
            if ended:
                log.warning("requests of a revoked key ended", key=sha256[:8], ended=len(ended))

    def _changes(self) -> dict[tuple[str, str], ApiKey]:
        with self._database.read() as tx:
            now = database_now(tx)
            self._begun_at = self._begun_at or now
            since = max(self._begun_at, now - OVERLAP)
            keys = changed_keys(tx, since)
        made = {(key.id, "key created"): key for key in keys if key.created_at > since}
        return made | {(key.id, "key revoked"): key for key in keys if key.revoked_at and key.revoked_at > since}

    def _log_changes(self, changes: dict[tuple[str, str], ApiKey]) -> None:
        for (key_id, event), key in changes.items():
            if (key_id, event) not in self._logged:
                log.info(event, key_id=key_id, name=key.name, key=key.sha256[:8], scopes=sorted(key.scopes))
        self._logged = set(changes)

    def _valid_among(self, digests: set[str]) -> set[str]:
        with self._database.read() as tx:
            return set(find_keys(tx, digests))
