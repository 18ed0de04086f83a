"""A host's clock that a test sets, by a library that is preloaded into its processes."""

import struct
from datetime import timedelta
from pathlib import Path

from tests.support.preloaded import library


class HostClock:
    """Processes that are started with `environment` see the time of day that was `set` last; nothing else is moved."""

    def __init__(self, folder: Path, ahead: timedelta = timedelta(0)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "clock"
        self._file.touch()
        self.set(ahead)

    def set(self, ahead: timedelta) -> None:
        """Put it so many seconds before the true time; behind it where that is negative."""
        with self._file.open("r+b") as file:  # the same file, which the processes have mapped
            file.write(struct.pack("=q", int(ahead.total_seconds())))

    @property
    def environment(self) -> dict[str, str]:
        """Of a process on this host."""
        return {"LD_PRELOAD": str(library("host_clock")), "HOST_CLOCK": str(self._file)}
