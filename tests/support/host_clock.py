"""A host clock that a test sets, by a library that is preloaded into processes."""

import struct
from datetime import timedelta
from pathlib import Path

from tests.support.preloaded import library


class HostClock:
    """The time of day for processes that are started with `environment`. Other clocks do not change."""

    def __init__(self, folder: Path, ahead: timedelta = timedelta(0)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "clock"
        self._file.touch()
        self.set(ahead)

    def set(self, ahead: timedelta) -> None:
        """Set the clock `ahead` of the true time; behind it if negative."""
        with self._file.open("r+b") as file:  # the same file, because the processes have mapped it
            file.write(struct.pack("=q", int(ahead.total_seconds())))

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of a process on this host."""
        return {"LD_PRELOAD": str(library("host_clock")), "HOST_CLOCK": str(self._file)}
