"""The id of the host's boot. `jobs.clock.elapsed` counts from its start, the same for all processes."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

_LINUX: Final = Path("/proc/sys/kernel/random/boot_id")
_MACOS: Final = ("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")


@cache
def boot_id() -> str | None:
    """Return an id that no other boot of any host has; None if the system has none."""
    try:
        if sys.platform == "darwin":
            named = subprocess.run(_MACOS, capture_output=True, text=True, check=True).stdout  # noqa: S603  # constant
        else:
            named = _LINUX.read_text("ascii")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return named.strip() or None
