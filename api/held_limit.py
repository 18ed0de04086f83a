"""Limit on the answers that this process holds open for each API key: held creates, waits and streams together.

Each takes a socket and some memory while its response runs; one key must not take them all.
"""

from itertools import count
from typing import Self

from jobs.errors import TooManyHeld


class Holds:
    """The answers held open now."""

    def __init__(self, most: int) -> None:
        """Allow `most` at once for each API key."""
        self._most = most
        self._held: dict[str, set[int]] = {}
        self._numbers = count()

    def take(self, api_key_id: str) -> "Hold":
        """Count one more held answer.

        Raises:
            TooManyHeld: the key has reached its limit.
        """
        if len(self._held.get(api_key_id, ())) >= self._most:
            raise TooManyHeld(
                f"This API key has {self._most} held requests, waits and streams open, which is its limit."
                " Nothing was submitted. Wait for one to end, or submit with 'background' and poll."
            )
        return self.take_again(api_key_id)

    def take_again(self, api_key_id: str) -> "Hold":
        """Count one more even above the limit: its job exists already, and only its connection was lost."""
        return Hold(self._held, api_key_id, next(self._numbers))

    def held(self, api_key_id: str) -> int:
        """Return the number of answers held for this key."""
        return len(self._held.get(api_key_id, ()))


class Hold:
    """One held answer. Releasing or deleting it lowers the count."""

    __slots__ = ("_api_key_id", "_held", "_number")

    def __init__(self, held: dict[str, set[int]], api_key_id: str, number: int) -> None:
        self._held = held
        self._api_key_id = api_key_id
        self._number = number
        held.setdefault(api_key_id, set()).add(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()  # an answer is never sent if its client leaves after it was made

    def release(self) -> None:
        """Lower the count. Repeating it is harmless."""
        of_key = self._held.get(self._api_key_id)
        if of_key is not None:
            of_key.discard(self._number)
            if not of_key:
                self._held.pop(self._api_key_id, None)

    def passed_on(self) -> "Hold":
        """Return a hold that replaces this one, which then releases nothing."""
        held, self._held = self._held, {}
        return Hold(held, self._api_key_id, self._number)
