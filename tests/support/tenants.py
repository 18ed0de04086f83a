"""Several API keys on one stack, and a provider's account errors for a single job."""

from typing import Any, Final

import httpx

from jobs.store.api_keys import create_key
from jobs.store.database import Database, database_now
from tests.support.stack import MODEL, Stack

REFUSALS: Final = {
    "401 about a tool": '401 message="not permitted to use the tool"',
    "403 about a tool": '403 message="not permitted to use the tool"',
    "402": "402",
    "401 as of a bad key": "401",
    "403 as of an empty account": "403",
    "429 as of an empty quota": "429-quota",
}
"""The simulator's directive for each error of the provider."""


class Tenant:
    """A client with one API key."""

    def __init__(self, stack: Stack, secret: str) -> None:
        self._url = f"{stack.base_url}/responses"
        self._headers = {"authorization": f"Bearer {secret}"}

    def submit(self, prompt: str, **fields: object) -> str:
        """Submit a background response and return its id."""
        body = {"model": MODEL, "input": prompt, "background": True, **fields}
        answer = httpx.post(self._url, json=body, headers=self._headers, timeout=60)
        job_id: str = answer.raise_for_status().json()["id"]
        return job_id

    def get(self, path: str) -> dict[str, Any]:
        """Return the response of that id, or a resource below it."""
        answer = httpx.get(f"{self._url}/{path}", headers=self._headers, timeout=60)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def status(self, job_id: str) -> str:
        """Return the status of a response."""
        return str(self.get(job_id)["status"])


def make_tenants(stack: Stack, count: int) -> list[Tenant]:
    """Create `count` API keys and return their clients."""
    database = Database(stack.database_url)
    with database.begin() as tx:
        now = database_now(tx)
        secrets = [create_key(tx, f"tenant {number}", None, now)[1] for number in range(count)]
    database.close()
    return [Tenant(stack, secret) for secret in secrets]
