"""Time as an argument: a clock that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta

START = datetime(2026, 3, 14, 15, 9, 26, 535897, tzinfo=UTC)


class Clock:
    """A callable for the current time, for any parameter of type `Callable[[], datetime]`."""

    def __init__(self, moment: datetime = START) -> None:
        self._moment = moment

    def __call__(self) -> datetime:
        return self._moment

    def advance(self, span: timedelta) -> datetime:
        self._moment += span
        return self._moment
