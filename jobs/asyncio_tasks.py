"""End asyncio tasks for certain, also in the face of libraries that lose a cancellation."""

import asyncio
from typing import Any, Final

CANCEL_AGAIN_AFTER: Final = 0.05


async def cancel_and_wait(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel the tasks until all have ended.

    Up to Python 3.11 `asyncio.wait_for`, which redis-py sends its commands in, swallows a cancellation that arrives
    just as its awaitable completes (https://github.com/python/cpython/issues/86296): the task goes on, and whoever
    cancelled it once would wait for ever.
    """
    while pending := [each for each in tasks if not each.done()]:
        for each in pending:
            each.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_AFTER)
    await asyncio.gather(*tasks, return_exceptions=True)
