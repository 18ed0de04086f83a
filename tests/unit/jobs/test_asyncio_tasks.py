"""Tasks end when they are cancelled, at whatever moment that is."""

import asyncio

import pytest

from jobs.asyncio_tasks import cancel_and_wait
from jobs.notifications import Subscription


async def deaf_to_the_first() -> None:
    """A task that loses the first cancellation, as `asyncio.wait_for` may up to Python 3.11."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()


def test_a_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    async def ended() -> bool:
        deaf, other = asyncio.create_task(deaf_to_the_first()), asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
        await asyncio.wait_for(cancel_and_wait(deaf, other), 5)
        return deaf.cancelled() and other.cancelled()

    assert asyncio.run(ended())


def test_one_that_failed_is_no_error_of_whoever_ends_it() -> None:
    async def fail() -> None:
        raise ValueError

    async def ended() -> bool:
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        await cancel_and_wait(task)
        return task.done()

    assert asyncio.run(ended())


@pytest.mark.parametrize("later", range(4))
def test_a_wait_that_is_cancelled_as_it_is_woken_is_cancelled(later: int) -> None:
    async def woken_and_cancelled() -> tuple[bool, bool]:
        with Subscription({}, "resp_1", lambda _job_id: None) as waiter:
            waiting = asyncio.create_task(waiter.wait(5))
            await asyncio.sleep(0.01)
            waiter.wake()
            for _ in range(later):
                await asyncio.sleep(0)
            is_over = waiting.done()
            waiting.cancel()
            await asyncio.wait({waiting})
        return is_over, waiting.cancelled()

    is_over, is_cancelled = asyncio.run(woken_and_cancelled())
    assert is_over or is_cancelled
