"""Run `up` with stand-ins for its parts: `python -m tests.cli.up_processes LOG [TRAIT]`.

TRAIT is stubborn, deaf, unready, broken or recording. The stand-ins write to the file LOG, see `stand_in.py`.
"""

import asyncio
import signal
import sys
from pathlib import Path

from cli.errors import CommandFailed
from cli.up.console import UpConsole
from cli.up.startup import Dependency, Plan, run
from cli.up.supervisor import Backoff, Program
from tests.support.server import free_port

STAND_IN = Path(__file__).with_name("stand_in.py")


def main(log: Path, trait: str) -> None:
    """Run until a stop signal."""
    port = free_port()
    records = trait == "recording"

    def program(name: str, *more: str, stop_seconds: float = 5.0) -> Program:
        command = (sys.executable, "-S", str(STAND_IN), str(log), name, *more)
        unfinished = recording if records and name == "worker" else None
        return Program(name, command, stop_seconds=stop_seconds, force=signal.SIGQUIT, unfinished=unfinished)

    def recording() -> str | None:
        return None if log.with_name("recorded").exists() else "recording 2 paid answers"

    def has_started() -> bool:
        return log.exists() and "store started" in log.read_text()

    async def is_up() -> bool:
        return await asyncio.to_thread(has_started)

    console = UpConsole()
    plan = Plan(
        dependencies=[Dependency(program("store"), is_up)],
        migrate=program("migrate", "exit", "3" if trait == "broken" else "0"),
        servers=[
            program(
                "worker",
                "stubborn" if trait == "recording" else trait,
                stop_seconds=0.1 if trait == "recording" else 60,
            ),
            program("api", "serve", str(port), "503" if trait == "unready" else "200"),
        ],
        readiness_url=f"http://127.0.0.1:{port}/readyz",
        show_ready=lambda: console.note("announced"),
        calls_in_flight=lambda: 2,
        grace_seconds=60,
        backoff=Backoff(first=0.05, longest=0.2),
        ready_seconds=0.5,
    )
    try:
        asyncio.run(run(plan, console))
    except CommandFailed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if sys.argv[2:] else "")
