"""The limit for calls in flight, aiohttp's client alone: `python -m benchmarks.peers.bare_aiohttp COUNT PROMPT`.

Prints `{"peak_bytes", "idle_bytes", "cpu_seconds"}`: unshared memory before the calls and at its peak.
"""

import asyncio
import json
import resource
import sys

import aiohttp
import psutil

from benchmarks.peers import work


async def main(count: int, prompt: str) -> None:
    """Make `count` calls at once, and wait for their ends."""
    process = psutil.Process()
    idle = peak = process.memory_full_info().uss
    headers: dict[str, str] = work.HTTP["headers"]
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers=headers, timeout=aiohttp.ClientTimeout(total=600)
    ) as session:

        async def call(number: int) -> None:
            async with session.post(work.RESPONSES, **work.request((str(number), prompt))) as answer:
                answer.raise_for_status()
                await answer.json()

        calls = asyncio.gather(*(call(number) for number in range(count)))
        while not calls.done():
            await asyncio.wait([calls], timeout=1)
            peak = max(peak, process.memory_full_info().uss)
        await calls
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {"idle_bytes": idle, "peak_bytes": peak, "cpu_seconds": used.ru_utime + used.ru_stime}
    print(json.dumps(figures))


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
