"""What clients do all day, as coroutines: each visit is one response, used in one of the ways there are.

A visit that does not end as it must raises. Chance is seeded: the same number makes the same visit.
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
    """Who visits: a connection pool to the API, and where webhooks go."""

    http: aiohttp.ClientSession
    base_url: str
    receivers: list[str]
    chance: Random
    number: int = 0
    finished: list[str] = field(default_factory=list)

    def prompt(self, script: str = "full", seconds: float | None = None) -> str:
        """One of a kind, answered within two seconds unless told."""
        self.number += 1
        delay = self.chance.uniform(0.02, 2) if seconds is None else seconds
        return f"[[sim: {script} delay={delay:.2f}]] Letter {self.number}"

    async def ask(self, method: str, path: str, body: Json | None = None, **headers: str) -> Json:
        """The answer's JSON, which has to be a 200."""
        async with self.http.request(method, f"{self.base_url}{path}", json=body, headers=headers) as answer:
            found: Json = await answer.json()
            assert answer.status == 200, (method, path, answer.status, found.get("error"))
            return found

    async def create(self, prompt: str, **fields: Any) -> Json:
        """A new response as its create answers."""
        return await self.ask("POST", "/responses", {"model": MODEL, "input": prompt, **fields})

    async def submit(self, prompt: str, **fields: Any) -> str:
        """A background response's id."""
        return str((await self.create(prompt, background=True, **fields))["id"])

    async def end(self, job_id: str, status: str = "completed") -> Json:
        """It is held until it has ended, and has to end like this."""
        found = await self.ask("GET", f"/responses/{job_id}?wait={WAIT_SECONDS}")
        assert found["status"] == status, (job_id, found["status"], found["error"])
        return found

    async def events(self, method: str, path: str, body: Json | None = None) -> AsyncIterator[Json]:
        """A stream's events up to its end, with the numbers they must have."""
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
    """Labelled, and asked for every half second with the ETag it had."""
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
    """A create that answers when it is over."""
    found = await it.create(it.prompt())
    assert found["status"] == "completed", found["status"]


async def wait(it: Visitor) -> None:
    """Submitted, then held by its id."""
    await it.end(await it.submit(it.prompt()))


async def stream(it: Visitor) -> None:
    """Watched from its create on."""
    body = {"model": MODEL, "input": it.prompt(), "stream": True}
    types = [event["type"] async for event in it.events("POST", "/responses", body)]
    assert types[-1] == "response.completed", types


async def watch_again(it: Visitor) -> None:
    """A background stream that is left after its second event, and taken up again."""
    body = {"model": MODEL, "input": it.prompt(), "stream": True, "background": True}
    watched = it.events("POST", "/responses", body)
    created = await anext(watched)
    second = await anext(watched)
    await watched.aclose()  # type: ignore[attr-defined]  # it is a generator
    path = f"/responses/{created['response']['id']}?stream=true&starting_after={second['sequence_number']}"
    types = [event["type"] async for event in it.events("GET", path)]
    assert types[-1] == "response.completed", types


async def follow_up(it: Visitor) -> None:
    """One that follows what still runs, and one that follows that."""
    first = await it.submit(it.prompt())
    second = await it.submit(it.prompt(), previous_response_id=first)
    await it.end(second)
    last = await it.create(it.prompt(), previous_response_id=second)
    assert last["status"] == "completed", last["status"]


async def cancel(it: Visitor) -> None:
    """Cancelled a moment later, while it is queued or runs."""
    job_id = await it.submit(it.prompt(seconds=60))
    await asyncio.sleep(it.chance.choice((0, 1)))
    await it.ask("POST", f"/responses/{job_id}/cancel")
    await it.end(job_id, "cancelled")


async def retry(it: Visitor) -> None:
    """The provider fails once, in one of its ways, and then answers."""
    faults = ("503", "500", "502", "drop", "truncated", "not-json")
    fault = it.chance.choice(faults) if it.chance.random() < 0.97 else "429 retry-after=0.5"  # narrows the lane
    await it.end(await it.submit(it.prompt(f"{fault} x1, then full")))


async def fail(it: Visitor) -> None:
    """The provider refuses for good; a person lets it run again, in vain."""
    job_id = await it.submit(it.prompt("400", seconds=0))
    await it.end(job_id, "failed")
    await it.ask("POST", f"/responses/{job_id}/retry")
    await it.end(job_id, "failed")


async def large(it: Visitor) -> None:
    """Half a megabyte asked, 400 KB answered."""
    await it.end(await it.submit(LARGE_PROMPT + it.prompt("huge kb=400")))


async def hook(it: Visitor) -> None:
    """Told of by a webhook."""
    await it.end(await it.submit(it.prompt(), webhook={"url": it.chance.choice(it.receivers)}))


async def endpoint(it: Visitor) -> None:
    """An endpoint for everything, for as long as one response takes."""
    body = {
        "name": f"endpoint {it.number}",
        "url": it.chance.choice(it.receivers),
        "event_types": ["response.completed"],
    }
    made = await it.ask("POST", "/webhook_endpoints", body)
    await wait(it)
    await it.ask("GET", f"/webhook_endpoints/{made['id']}/deliveries")
    await it.ask("DELETE", f"/webhook_endpoints/{made['id']}")


async def send_again(it: Visitor) -> None:
    """The client's connection breaks, and its SDK sends the create once more."""
    body = {"model": MODEL, "input": it.prompt(seconds=2)}
    with_short_patience = aiohttp.ClientTimeout(total=0.3)
    try:
        async with it.http.post(f"{it.base_url}/responses", json=body, timeout=with_short_patience):
            raise AssertionError("it was answered too early")
    except TimeoutError:
        found = await it.ask("POST", "/responses", body, **{"x-stainless-retry-count": "1"})
        assert found["status"] == "completed", found["status"]
        attempts = await it.ask("GET", f"/responses/{found['id']}/attempts")
        assert len(attempts["data"]) == 1, attempts


async def same_key(it: Visitor) -> None:
    """Sent twice with one Idempotency-Key."""
    body = {"model": MODEL, "input": it.prompt(), "background": True}
    key = {"idempotency-key": f"key-{it.number}"}
    first, second = await it.ask("POST", "/responses", body, **key), await it.ask("POST", "/responses", body, **key)
    assert first["id"] == second["id"], (first["id"], second["id"])
    await it.end(first["id"])


async def erase(it: Visitor) -> None:
    """Deleted while it runs; and one that is not to be stored."""
    job_id = await it.submit(it.prompt(seconds=60))
    await it.ask("DELETE", f"/responses/{job_id}")
    await it.create(it.prompt(), store=False)


async def look_around(it: Visitor) -> None:
    """Lists, usage, and what else there is to see."""
    paths = ["/responses?limit=20", "/responses?status=completed&metadata[of]=soak", "/usage", "/models"]
    if it.finished:
        paths += [f"/responses/{it.finished[-1]}/{part}" for part in ("attempts", "input_items")]
    for path in paths:
        await it.ask("GET", path)
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
"""Out of how many visits each is one."""
