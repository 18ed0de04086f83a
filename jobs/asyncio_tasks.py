"""Reliable end of asyncio tasks, even if a library loses a cancellation."""

import asyncio
from typing import Any, Final

CANCEL_AGAIN_AFTER: Final = 0.05


async def cancel_and_wait(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel the tasks until all have ended.

    Up to Python 3.11 `asyncio.wait_for`, which redis-py uses for its commands, swallows a cancellation that arrives
    just as its awaitable completes (https://github.com/python/cpython/issues/86296). The task then goes on, and a
    single cancellation would be waited for forever.
    """
    while pending := [each for each in tasks if not each.done()]:
        for each in pending:
            each.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_AFTER)
    await asyncio.gather(*tasks, return_exceptions=True)
