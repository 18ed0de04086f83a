"""Runs in front of every child of `up`, so that the child dies with the supervisor, however that one dies.

Started as a file in an isolated interpreter (`python -I -S leash.py SUPERVISOR_PID PIPE command...`), then replaced
by the command. A hook between fork and exec would do on paper, but it would run Python in a forked copy of a
process that has threads.
"""

import ctypes
import os
import select
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1
CANNOT_RUN = 127
LOOK_SECONDS = 0.5


def main(supervisor: int, pipe: int | None, command: list[str]) -> NoReturn:
    """Tie this process to `supervisor`, then become `command`.

    Linux's kernel holds the leash. Elsewhere a small guard holds it: `pipe` is the read end of a pipe whose write
    end only the supervisor has, so it ends when the supervisor does.
    """
    if pipe is None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        os.set_inheritable(pipe, False)
        _guard(pipe)
    if os.getppid() != supervisor:  # it died before the leash was on
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606  # the supervisor's own table of commands
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        sys.exit(CANNOT_RUN)


def _guard(pipe: int) -> None:
    """Leave a process behind that kills our process group once `pipe` ends, and goes when we do."""
    group = os.getpid()
    if os.fork():
        return
    for stream in (0, 1, 2):  # the supervisor reads our output until its last holder is gone
        os.close(stream)
    while os.getppid() == group:
        if select.select([pipe], [], [], LOOK_SECONDS)[0]:
            os.killpg(group, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2] else None, sys.argv[3:])
