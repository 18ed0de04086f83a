"""A wrapper around every child of `up`, which makes the child die with the supervisor, even after SIGKILL.

It is started as a file in an isolated interpreter (`python -I -S die_with_parent.py SUPERVISOR_PID PIPE command...`)
and then replaces itself by the command. A hook between fork and exec is no alternative: it would run Python in the
forked copy of a process that has threads.
"""

import ctypes
import os
import select
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1
CANNOT_RUN = 127
CHECK_SECONDS = 0.5


def main(supervisor: int, pipe: int | None, command: list[str]) -> NoReturn:
    """Tie this process to the process `supervisor`, then become `command`.

    On Linux the kernel kills us when our parent dies. Elsewhere a small guard process does: `pipe` is the read end of a
    pipe whose only write end is the supervisor's, so it reaches its end when the supervisor dies.
    """
    if pipe is None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        os.set_inheritable(pipe, False)
        _start_guard(pipe)
    if os.getppid() != supervisor:  # the supervisor died before we were tied to it
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606  # the supervisor's own table of commands
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        sys.exit(CANNOT_RUN)


def _start_guard(pipe: int) -> None:
    """Fork a guard that kills our process group when `pipe` ends. The guard exits when we do."""
    group = os.getpid()
    if os.fork():
        return
    for stream in (0, 1, 2):  # else the supervisor would read our output until the guard has exited
        os.close(stream)
    while os.getppid() == group:
        if select.select([pipe], [], [], CHECK_SECONDS)[0]:
            os.killpg(group, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2] else None, sys.argv[3:])
