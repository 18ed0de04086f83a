"""`backburner up`: everything on one machine, in the foreground, on one command."""

import asyncio
import os
import signal
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from cli.server_address import KEY_FILE, base_url_of
from cli.up import commands, valkey
from cli.up.child_environment import Part, environment_of
from cli.up.console import UpConsole
from cli.up.data_dir import ensure_api_key, ensure_encryption_key, held
from cli.up.ports import choose_port, require_free_port
from cli.up.ready_message import Announcement
from cli.up.startup import Plan, Service, run
from cli.up.stop_progress import recording
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
SIMULATORS_KEY = "simulator"
NO_PROVIDER_KEY = (
    "NO PROVIDER KEY: answers come from the built-in simulator, not from a model."
    f" Set {PREFIX}PROVIDER_API_KEY for real ones."
)


def up(processes: int = 1) -> None:
    """Run everything on this machine until Ctrl-C, with so many worker processes.

    Raises:
        SettingsError: a variable is wrong.
        CommandFailed: the data directory, a port or a part of it all is not to be had.
    """
    os.umask(0o077)  # prompts and answers go into the data directory
    console = UpConsole()
    settings = load_settings()
    for each in ignored_variables():
        console.note(each)
    with held(settings.data_dir) as was_killed:
        patience = PREDECESSOR_SECONDS if was_killed else 0
        if settings.port:
            require_free_port(settings.host, settings.port, patience)
        port = settings.port or choose_port(settings.host)
        plan = make_plan(settings, port, console, processes)
        if settings.provider_api_key is None:
            console.loud(NO_PROVIDER_KEY)
        asyncio.run(run(plan, console))


def make_plan(settings: Settings, port: int, console: UpConsole, processes: int = 1) -> Plan:
    """What to start for `settings`, with the API at `port`.

    Raises:
        CommandFailed: the data directory cannot be written to, or a port is not to be had.
    """
    data_dir = settings.data_dir.absolute()
    told = {"DATA_DIR": str(data_dir), "PORT": str(port)}
    told["API_KEY"] = settings.api_key.get_secret_value() if settings.api_key is not None else ensure_api_key(data_dir)
    told["ENCRYPTION_KEYS"] = ",".join(
        key.get_secret_value() for key in settings.encryption_keys
    ) or ensure_encryption_key(data_dir)
    if settings.log_format is None and console.is_terminal:
        told["LOG_FORMAT"] = "console"
    services = []
    if valkey.is_wanted(settings):
        embedded = valkey.prepare(data_dir)
        told["REDIS_URL"] = embedded.url
        program = replace(embedded.program, environment=environment_of(Part.VALKEY, told), inherits=False)
        services.append(Service(program, embedded.answers))
    if settings.provider_api_key is None:
        simulator_port = choose_port(LOOPBACK)
        provider_url = f"http://{LOOPBACK}:{simulator_port}/v1"
        told["PROVIDER_API_KEY"] = SIMULATORS_KEY
        models = ",".join(settings.models)
        command = commands.simulator(("--host", LOOPBACK, "--port", str(simulator_port), "--models", models))
        simulator = Program("simulator", command, environment_of(Part.SIMULATOR, told), inherits=False)
        services.append(Service(simulator, lambda: _listens(simulator_port)))
    else:
        provider_url = settings.provider_base_url
        told["PROVIDER_API_KEY"] = settings.provider_api_key.get_secret_value()
    told["PROVIDER_BASE_URL"] = provider_url
    of_the_api = {**environment_of(Part.API, told), f"{PREFIX}PROVIDER_BASE_URL": shown_url(provider_url)}
    base_url = base_url_of(settings.host, port)
    announcement = Announcement(
        base_url=base_url,
        key_file=settings.data_dir / KEY_FILE if settings.api_key is None else None,
        provider="the built-in simulator" if settings.provider_api_key is None else settings.provider_shown,
        model=settings.models[0],
        data_dir=settings.data_dir,
    )
    return Plan(
        services=services,
        migrate=Program("migrate", commands.migrate(), environment_of(Part.MIGRATE, told), inherits=False),
        servers=(
            Program(
                "worker",
                commands.worker() if processes == 1 else commands.workers(processes),
                environment_of(Part.WORKER, told),
                inherits=False,
                stop_seconds=settings.shutdown_grace_seconds + commands.WORKER_MARGIN_SECONDS,
                force=signal.SIGQUIT,  # Celery's word for ending without waiting: what runs is handed back
                unfinished=lambda: recording(settings),
            ),
            Program("api", commands.api(settings.host, port), of_the_api, API_STOP_SECONDS, inherits=False),
        ),
        readiness_url=f"{base_url.removesuffix('/v1')}/readyz",
        announce=lambda: console.ready(announcement.facts(), announcement.shell(), announcement.python()),
        calls_in_flight=lambda: _calls_in_flight(settings),
        grace_seconds=settings.shutdown_grace_seconds,
    )


async def _listens(port: int) -> bool:
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
