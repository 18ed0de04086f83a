"""Authentication: find the API key of a request.

The database is read for every request, so that a revoked key is refused at once. Requests that come at the same time
share one read. A create is checked with its key as last read; the transaction that submits its job reads the key again
(decision 0004).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from jobs.batching import AsyncBatcher
from jobs.errors import KeyRefused, NotAllowed
from jobs.store.api_keys import ApiKey, Scope, digest, find_keys, find_revoked
from jobs.store.database import READ_SECONDS, Database

REMEMBERED: Final = 1024

MISSING: Final = "You didn't provide an API key. Send it in the Authorization header: 'Authorization: Bearer YOUR_KEY'."
REVOKED: Final = "This API key has been revoked."
UNKNOWN: Final = "Incorrect API key provided. Keys of this server are made by 'backburner keys create NAME'."


class Callers:
    """Finds API keys by the secrets of requests."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reads = AsyncBatcher(self._find)
        self._remembered: LRUCache[str, ApiKey] = LRUCache(REMEMBERED)

    async def find(self, secret: str | None) -> ApiKey:
        """Return the API key with this secret.

        Raises:
            KeyRefused: the secret is missing, unknown or revoked.
        """
        return await self.ask(_digest(secret))

    async def find_submitter(self, secret: str | None) -> "Submitter":
        """Return the API key with this secret as last read; read it if it is not remembered.

        Raises:
            KeyRefused: the secret is missing; or it had to be read, and is unknown or revoked.
        """
        sha256 = _digest(secret)
        remembered = self._remembered.get(sha256)
        if remembered is None:
            return Submitter(await self.ask(sha256), sha256, self)
        return Submitter(remembered, sha256, self)

    async def ask(self, sha256: str) -> ApiKey:
        """Read the API key with this SHA-256; raises as `find`."""
        try:
            key = await self._reads.do(sha256)
        except KeyRefused:
            self._remembered.pop(sha256, None)
            raise
        self._remembered[sha256] = key
        return key

    async def recheck(self, key: ApiKey) -> None:
        """Read the key again, before an answer is sent for which a client has waited.

        Raises:
            KeyRefused: the key has been revoked meanwhile.
        """
        try:
            await self.ask(key.sha256)
        except KeyRefused:
            raise was_revoked(key) from None

    def _find(self, digests: Sequence[str]) -> Sequence[ApiKey | KeyRefused]:
        with self._database.read(within=READ_SECONDS) as tx:
            found = find_keys(tx, digests)
            missing = {*digests}.difference(found)
            revoked = find_revoked(tx, missing) if missing else {}
        return [found.get(each) or _refusal(each, revoked.get(each)) for each in digests]


@dataclass(frozen=True, slots=True)
class Submitter:
    """The API key of a create, as last read. Use `confirmed` before reading anything on its behalf."""

    last_known: ApiKey
    sha256: str
    _callers: Callers

    async def confirmed(self) -> ApiKey:
        """Read the key and return it.

        Raises:
            KeyRefused: it has been revoked.
        """
        return self.still(await self._callers.ask(self.sha256))

    def still(self, key: ApiKey | None) -> ApiKey:
        """Return `key`, which was just read, if it is the same one; raises as `confirmed`."""
        if key is None or key.id != self.last_known.id:
            raise _refusal(self.sha256, self.last_known)
        return key


def was_revoked(key: ApiKey) -> KeyRefused:
    """Return the error for a key that was revoked while its client waited."""
    return KeyRefused(REVOKED, "revoked", key.sha256, key.id)


def _refusal(sha256: str, revoked: ApiKey | None) -> KeyRefused:
    # one wording for both, so that a finder of an old key does not learn that it was valid
    return KeyRefused(UNKNOWN, "revoked" if revoked else "unknown", sha256, revoked.id if revoked else None)


def allow(key: ApiKey, scope: Scope) -> ApiKey:
    """Return the key if it has the scope.

    Raises:
        NotAllowed: it lacks the scope.
    """
    if scope not in key.scopes:
        raise NotAllowed(f"This API key lacks the scope '{scope}'.")
    return key


def _digest(secret: str | None) -> str:
    if not secret:
        raise KeyRefused(MISSING, "missing")
    return digest(secret)
