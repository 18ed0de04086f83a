"""API keys in the order in which they are to be served."""

from bisect import bisect_left, insort
from datetime import UTC, datetime

NEVER = datetime.min.replace(tzinfo=UTC)


class KeyQueue:
    """A queue of keys, longest unserved first. Keys served at the same moment are sorted by id."""

    def __init__(self) -> None:
        self._served_at: dict[str, datetime] = {}
        self._order: list[tuple[datetime, str]] = []

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, key: str) -> bool:
        return key in self._served_at

    def keys(self, start: int, end: int) -> list[str]:
        """Return the keys at the positions from `start` to before `end`, counted from 0."""
        return [key for _served_at, key in self._order[start:end]]

    def served_at(self, key: str) -> tuple[datetime, str]:
        """Return the sort value of a key that is in the queue."""
        return self._served_at[key], key

    def put(self, key: str, served_at: datetime | None) -> None:
        """Insert or move a key that was last served at `served_at`; None means never."""
        moment = served_at or NEVER
        if self._served_at.get(key) == moment:
            return
        self.drop(key)
        self._served_at[key] = moment
        insort(self._order, (moment, key))

    def drop(self, key: str) -> None:
        """Remove a key if it is in the queue."""
        moment = self._served_at.pop(key, None)
        if moment is not None:
            del self._order[bisect_left(self._order, (moment, key))]
