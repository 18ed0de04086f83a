"""`backburner up`: run everything on one machine, in the foreground, with one command."""

import asyncio
import os
import signal
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from cli.server_address import KEY_FILE, base_url_of
from cli.up import commands, valkey
from cli.up.child_environment import Part, environment_of
from cli.up.console import UpConsole
from cli.up.data_dir import ensure_api_key, ensure_encryption_key, locked
from cli.up.ports import choose_port, require_free_port
from cli.up.ready_message import ReadyMessage
from cli.up.startup import Dependency, Plan, run
from cli.up.stop_progress import unrecorded_answers
from cli.up.supervisor import Program
from jobs.environment import PREFIX
from jobs.lifecycle import Status
from jobs.redacted_url import shown_url
from jobs.settings import Settings, ignored_variables, load_settings
from jobs.store.database import Database
from jobs.store.responses import count_open

LOOPBACK = "127.0.0.1"
PREDECESSOR_SECONDS = 5.0
API_STOP_SECONDS = commands.API_GRACE_SECONDS + 5.0
SIMULATOR_KEY = "simulator"
NO_PROVIDER_KEY = (
    "NO PROVIDER KEY: answers come from the built-in simulator, not from a model."
    f" Set {PREFIX}PROVIDER_API_KEY for real ones."
)


def up(processes: int = 1) -> None:
    """Run everything on this machine until Ctrl-C, with `processes` worker processes.

    Raises:
        SettingsError: a variable is wrong.
        CommandFailed: the data directory or a port cannot be used, or a part does not start.
    """
    os.umask(0o077)  # the data directory holds prompts and answers
    console = UpConsole()
    settings = load_settings()
    for each in ignored_variables():
        console.note(each)
    with locked(settings.data_dir) as was_killed:
        max_wait = PREDECESSOR_SECONDS if was_killed else 0
        if settings.port:
            require_free_port(settings.host, settings.port, max_wait)
        port = settings.port or choose_port(settings.host)
        plan = make_plan(settings, port, console, processes)
        if settings.provider_api_key is None:
            console.loud(NO_PROVIDER_KEY)
        asyncio.run(run(plan, console))


def make_plan(settings: Settings, port: int, console: UpConsole, processes: int = 1) -> Plan:
    """Return the programs to start for `settings`, with the API at `port`.

    Raises:
        CommandFailed: the data directory cannot be written to, or no port is free.
    """
    data_dir = settings.data_dir.absolute()
    values = {"DATA_DIR": str(data_dir), "PORT": str(port)}
    values["API_KEY"] = (
        settings.api_key.get_secret_value() if settings.api_key is not None else ensure_api_key(data_dir)
    )
    values["ENCRYPTION_KEYS"] = ",".join(
        key.get_secret_value() for key in settings.encryption_keys
    ) or ensure_encryption_key(data_dir)
    if settings.log_format is None and console.is_terminal:
        values["LOG_FORMAT"] = "console"
    dependencies = []
    if valkey.is_embedded(settings):
        embedded = valkey.prepare(data_dir)
        values["REDIS_URL"] = embedded.url
        program = replace(embedded.program, environment=environment_of(Part.VALKEY, values), inherits=False)
        dependencies.append(Dependency(program, embedded.is_up))
    if settings.provider_api_key is None:
        simulator_port = choose_port(LOOPBACK)
        provider_url = f"http://{LOOPBACK}:{simulator_port}/v1"
        values["PROVIDER_API_KEY"] = SIMULATOR_KEY
        models = ",".join(settings.models)
        command = commands.simulator(("--host", LOOPBACK, "--port", str(simulator_port), "--models", models))
        simulator = Program("simulator", command, environment_of(Part.SIMULATOR, values), inherits=False)
        dependencies.append(Dependency(simulator, lambda: _accepts_connections(simulator_port)))
    else:
        provider_url = settings.provider_base_url
        values["PROVIDER_API_KEY"] = settings.provider_api_key.get_secret_value()
    values["PROVIDER_BASE_URL"] = provider_url
    api_environment = {**environment_of(Part.API, values), f"{PREFIX}PROVIDER_BASE_URL": shown_url(provider_url)}
    base_url = base_url_of(settings.host, port)
    message = ReadyMessage(
        base_url=base_url,
        key_file=settings.data_dir / KEY_FILE if settings.api_key is None else None,
        provider="the built-in simulator" if settings.provider_api_key is None else settings.provider_shown,
        model=settings.models[0],
        data_dir=settings.data_dir,
    )
    return Plan(
        dependencies=dependencies,
        migrate=Program("migrate", commands.migrate(), environment_of(Part.MIGRATE, values), inherits=False),
        servers=(
            Program(
                "worker",
                commands.worker() if processes == 1 else commands.workers(processes),
                environment_of(Part.WORKER, values),
                inherits=False,
                stop_seconds=settings.shutdown_grace_seconds + commands.WORKER_MARGIN_SECONDS,
                force=signal.SIGQUIT,  # Celery's signal to end at once; the worker hands its calls back
                unfinished=lambda: unrecorded_answers(settings),
            ),
            Program("api", commands.api(settings.host, port), api_environment, API_STOP_SECONDS, inherits=False),
        ),
        readiness_url=f"{base_url.removesuffix('/v1')}/readyz",
        show_ready=lambda: console.ready(message.facts(), message.shell(), message.python()),
        calls_in_flight=lambda: _calls_in_flight(settings),
        grace_seconds=settings.shutdown_grace_seconds,
    )


async def _accepts_connections(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True


def _calls_in_flight(settings: Settings) -> int | None:
    database = Database(settings.database, pool_size=1)
    try:
        with database.read() as tx:
            return count_open(tx).get(Status.IN_PROGRESS, 0)
    except SQLAlchemyError:
        return None
    finally:
        database.close()
