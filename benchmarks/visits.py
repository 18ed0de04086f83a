"""Typical uses of the API, as coroutines: each visit creates a response and uses it in one way.

A visit that does not end as expected raises. Randomness is seeded, so that runs are repeatable.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import aiohttp

from tests.support.stack import MODEL

WAIT_SECONDS: Final = 60
LARGE_PROMPT: Final = "lorem ipsum " * 40_000  # half a megabyte

Json = dict[str, Any]


@dataclass
class Visitor:
    """A client: its connection pool to the API, and the URLs of its webhooks."""

    http: aiohttp.ClientSession
    base_url: str
    endpoints: list[str]
    random: Random
    number: int = 0
    finished: list[str] = field(default_factory=list)

    def prompt(self, script: str = "full", seconds: float | None = None) -> str:
        """Return a unique prompt. Its answer takes `seconds`, or a random time of up to two seconds."""
        self.number += 1
        delay = self.random.uniform(0.02, 2) if seconds is None else seconds
        return f"[[sim: {script} delay={delay:.2f}]] Letter {self.number}"

    async def request(self, method: str, path: str, body: Json | None = None, **headers: str) -> Json:
        """Send a request; return the JSON of its answer, which must be a 200."""
        async with self.http.request(method, f"{self.base_url}{path}", json=body, headers=headers) as answer:
            found: Json = await answer.json()
            assert answer.status == 200, (method, path, answer.status, found.get("error"))
            return found

    async def create(self, prompt: str, **fields: Any) -> Json:
        """Create a response; return the answer to the create."""
        return await self.request("POST", "/responses", {"model": MODEL, "input": prompt, **fields})

    async def submit(self, prompt: str, **fields: Any) -> str:
        """Create a background response; return its id."""
        return str((await self.create(prompt, background=True, **fields))["id"])

    async def await_end(self, job_id: str, status: str = "completed") -> Json:
        """Wait until the response has ended, in this status; return it."""
        found = await self.request("GET", f"/responses/{job_id}?wait={WAIT_SECONDS}")
        assert found["status"] == status, (job_id, found["status"], found["error"])
        return found

    async def events(self, method: str, path: str, body: Json | None = None) -> AsyncIterator[Json]:
        """Yield a stream's events up to its end, and check their sequence numbers."""
        async with self.http.request(method, f"{self.base_url}{path}", json=body) as answer:
            assert answer.status == 200, (method, path, answer.status)
            expected = None
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    event: Json = json.loads(line.removeprefix(b"data: "))
                    number = event["sequence_number"]
                    assert expected in (None, number), (expected, event["type"])
                    expected = number + 1
                    yield event


async def poll(it: Visitor) -> None:
    """Submit with metadata, and poll every half second with the last ETag."""
    job_id = await it.submit(it.prompt(), metadata={"lot": str(it.number % 50), "of": "soak"})
    etag, status = "", "queued"
    for _ in range(2 * WAIT_SECONDS):
        async with it.http.get(f"{it.base_url}/responses/{job_id}", headers={"if-none-match": etag}) as answer:
            assert answer.status in (200, 304), answer.status
            if answer.status == 200:
                etag, status = answer.headers["etag"], (await answer.json())["status"]
        if status == "completed":
            it.finished = [*it.finished[-20:], job_id]
            return
        await asyncio.sleep(0.5)
    raise AssertionError(job_id, status)


async def hold(it: Visitor) -> None:
    """Create, and get the answer when the response has ended."""
    found = await it.create(it.prompt())
    assert found["status"] == "completed", found["status"]


async def wait(it: Visitor) -> None:
    """Submit, then wait by id."""
    await it.await_end(await it.submit(it.prompt()))


async def stream(it: Visitor) -> None:
    """Stream from the create on."""
    body = {"model": MODEL, "input": it.prompt(), "stream": True}
    types = [event["type"] async for event in it.events("POST", "/responses", body)]
    assert types[-1] == "response.completed", types


async def watch_again(it: Visitor) -> None:
    """Leave a background stream after its second event, and resume it."""
    body = {"model": MODEL, "input": it.prompt(), "stream": True, "background": True}
    watched = it.events("POST", "/responses", body)
    created = await anext(watched)
    second = await anext(watched)
    await watched.aclose()  # type: ignore[attr-defined]  # it is a generator
    path = f"/responses/{created['response']['id']}?stream=true&starting_after={second['sequence_number']}"
    types = [event["type"] async for event in it.events("GET", path)]
    assert types[-1] == "response.completed", types


async def follow_up(it: Visitor) -> None:
    """Follow up a response that is still running, and follow up the follow-up."""
    first = await it.submit(it.prompt())
    second = await it.submit(it.prompt(), previous_response_id=first)
    await it.await_end(second)
    last = await it.create(it.prompt(), previous_response_id=second)
    assert last["status"] == "completed", last["status"]


async def cancel(it: Visitor) -> None:
    """Cancel a moment later, while it is queued or running."""
    job_id = await it.submit(it.prompt(seconds=60))
    await asyncio.sleep(it.random.choice((0, 1)))
    await it.request("POST", f"/responses/{job_id}/cancel")
    await it.await_end(job_id, "cancelled")


async def retry(it: Visitor) -> None:
    """Let the provider fail once, in a random way, and then answer."""
    faults = ("503", "500", "502", "drop", "truncated", "not-json")
    throttled = it.random.random() >= 0.97  # rare, as it throttles the provider limit for all
    fault = "429 retry-after=0.5" if throttled else it.random.choice(faults)
    await it.await_end(await it.submit(it.prompt(f"{fault} x1, then full")))


async def fail(it: Visitor) -> None:
    """Let the provider refuse, and retry in vain."""
    job_id = await it.submit(it.prompt("400", seconds=0))
    await it.await_end(job_id, "failed")
    await it.request("POST", f"/responses/{job_id}/retry")
    await it.await_end(job_id, "failed")


async def large(it: Visitor) -> None:
    """Send half a megabyte and get 400 KB."""
    await it.await_end(await it.submit(LARGE_PROMPT + it.prompt("huge kb=400")))


async def hook(it: Visitor) -> None:
    """Get a webhook for one response."""
    await it.await_end(await it.submit(it.prompt(), webhook={"url": it.random.choice(it.endpoints)}))


async def endpoint(it: Visitor) -> None:
    """Register an endpoint for the time of one response."""
    body = {
        "name": f"endpoint {it.number}",
        "url": it.random.choice(it.endpoints),
        "event_types": ["response.completed"],
    }
    made = await it.request("POST", "/webhook_endpoints", body)
    await wait(it)
    await it.request("GET", f"/webhook_endpoints/{made['id']}/deliveries")
    await it.request("DELETE", f"/webhook_endpoints/{made['id']}")


async def send_again(it: Visitor) -> None:
    """Break the connection of a create and repeat it, as an SDK does."""
    body = {"model": MODEL, "input": it.prompt(seconds=2)}
    short_timeout = aiohttp.ClientTimeout(total=0.3)
    try:
        async with it.http.post(f"{it.base_url}/responses", json=body, timeout=short_timeout):
            raise AssertionError("it was answered too early")
    except TimeoutError:
        found = await it.request("POST", "/responses", body, **{"x-stainless-retry-count": "1"})
        assert found["status"] == "completed", found["status"]
        attempts = await it.request("GET", f"/responses/{found['id']}/attempts")
        assert len(attempts["data"]) == 1, attempts


async def same_key(it: Visitor) -> None:
    """Send a create twice with one Idempotency-Key."""
    body = {"model": MODEL, "input": it.prompt(), "background": True}
    key = {"idempotency-key": f"key-{it.number}"}
    first, second = [await it.request("POST", "/responses", body, **key) for _ in range(2)]
    assert first["id"] == second["id"], (first["id"], second["id"])
    await it.await_end(first["id"])


async def erase(it: Visitor) -> None:
    """Delete a running response; create one that is not stored."""
    job_id = await it.submit(it.prompt(seconds=60))
    await it.request("DELETE", f"/responses/{job_id}")
    await it.create(it.prompt(), store=False)


async def look_around(it: Visitor) -> None:
    """Read lists, usage and everything else that can be read."""
    paths = ["/responses?limit=20", "/responses?status=completed&metadata[of]=soak", "/usage", "/models"]
    if it.finished:
        paths += [f"/responses/{it.finished[-1]}/{part}" for part in ("attempts", "input_items")]
    for path in paths:
        await it.request("GET", path)
    for path in ("/metrics", "/readyz"):
        async with it.http.get(it.base_url.removesuffix("/v1") + path) as answer:
            assert answer.status == 200, path
    await hold(it)


Visit = Callable[[Visitor], Awaitable[None]]
SHARES: Final[Mapping[Visit, int]] = {
    poll: 8,
    hold: 6,
    wait: 6,
    stream: 6,
    watch_again: 3,
    follow_up: 2,
    cancel: 4,
    retry: 3,
    fail: 1,
    large: 1,
    hook: 6,
    endpoint: 1,
    send_again: 2,
    same_key: 3,
    erase: 2,
    look_around: 1,
}
"""Number of visits of each kind, out of the sum of all numbers."""
