"""How many answers of each key this process holds open: held creates, waits and streams, counted together.

Each takes a socket and a little memory for as long as its response runs, and one key is not to take all of them.
"""

from itertools import count
from typing import Self

from jobs.errors import TooManyHeld


class Holds:
    """The answers that are held open now."""

    def __init__(self, most: int) -> None:
        """At most so many at once for each key."""
        self._most = most
        self._held: dict[str, set[int]] = {}
        self._numbers = count()

    def take(self, api_key_id: str) -> "Hold":
        """Hold one more.

        Raises:
            TooManyHeld: the key has as many as it may have.
        """
        if len(self._held.get(api_key_id, ())) >= self._most:
            raise TooManyHeld(
                f"This API key has {self._most} held requests, waits and streams open, as many as it may have at once."
                " Nothing was submitted. Wait for one to end, or submit with 'background' and poll."
            )
        return self.take_again(api_key_id)

    def take_again(self, api_key_id: str) -> "Hold":
        """Hold one whose connection was lost and whose job is paid for, however many there are."""
        return Hold(self._held, api_key_id, next(self._numbers))

    def held(self, api_key_id: str) -> int:
        """How many this key has."""
        return len(self._held.get(api_key_id, ()))


class Hold:
    """One answer that is held open, until it is released or forgotten."""

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
        self.release()  # an answer may be made and never sent, as its client left in between

    def release(self) -> None:
        """It is over; again is harmless."""
        of_key = self._held.get(self._api_key_id)
        if of_key is not None:
            of_key.discard(self._number)
            if not of_key:
                self._held.pop(self._api_key_id, None)

    def passed_on(self) -> "Hold":
        """The same for whoever goes on with it; this one releases nothing any more."""
        held, self._held = self._held, {}
        return Hold(held, self._api_key_id, self._number)
