"""Five hundred clients watch one stream, disconnect and resume. All receive the same complete events."""

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.watching import EventWriter, frames
from tests.api.world import FakeWorker, Server, Tenant
from tests.support.waiting import await_until

pytestmark = pytest.mark.long

WATCHERS = 500
DELTAS = 60


async def read_events(server: Server, tenant: Tenant, job_id: str, after: int, until: int | None) -> str:
    """Return the frames after `after`. Disconnect once the event `until` has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20)
    query = f"stream=true&starting_after={after}" if after >= 0 else "stream=true"
    head = f"GET /v1/responses/{job_id}?{query} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
    writer.write(f"{head}\r\n".encode())
    text = ""
    try:
        await reader.readuntil(b"\r\n\r\n")
        while size := int(await reader.readline(), 16):
            text += (await reader.readexactly(size + 2))[:-2].decode()
            if until is not None and f'"sequence_number":{until},' in text:
                break
    finally:
        writer.transport.abort()
    return text


async def watch(server: Server, tenant: Tenant, job_id: str, chance: random.Random) -> str:
    cut_at = chance.randrange(DELTAS)
    seen = await read_events(server, tenant, job_id, -1, cut_at)
    whole = frames(seen)
    resume_after = chance.randrange(len(whole))  # a client may lose events that had arrived
    kept = seen.split("\n\n")[: resume_after + 1]
    await asyncio.sleep(chance.random() / 2)  # stay disconnected for a while, as clients do
    rest = await read_events(server, tenant, job_id, resume_after, None)
    return "\n\n".join(kept) + "\n\n" + rest


def test_five_hundred_clients_disconnect_and_resume(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    chance = random.Random(500)
    seeds = [random.Random(chance.random()) for _ in range(WATCHERS)]

    async def all_watch() -> list[str]:
        return await asyncio.gather(*(watch(server, tenant, job_id, each) for each in seeds))

    def write_events() -> None:
        teller = EventWriter(server, worker, job_id)
        teller.begin()
        for number in range(DELTAS):
            teller.text(f"word{number} ")
            time.sleep(0.05)  # the pace of a provider
        teller.end()
        worker.complete(job_id)

    with ThreadPoolExecutor(2) as pool:
        watching = pool.submit(asyncio.run, all_watch())
        places = server.state.listener._watching
        await_until(lambda: len(places.get(job_id, ())) == WATCHERS, 60, "not all watch")
        threads = threading.active_count()
        pool.submit(write_events).result(60)
        seen = watching.result(60)
    assert threads < 100
    with tenant.http.stream("GET", f"/v1/responses/{job_id}?stream=true") as answer:
        whole = answer.read().decode()
    assert [each["sequence_number"] for each in frames(whole)] == list(range(5 + DELTAS + 4))
    assert sum(each == whole for each in seen) == WATCHERS
    await_until(lambda: not places, 5, "places are still taken")
