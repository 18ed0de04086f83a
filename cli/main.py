"""The `backburner` command line. Each command is implemented in a module of its own.

The operator's commands are imported only when they are called. They need the libraries of the database and the broker,
which would double the start time of a `backburner get`.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli import render, responses, webhooks
from jobs.errors import BackburnerError

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


class OneLineFailures(TyperGroup):
    """Prints an expected failure as one line and exits with 1. Anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BackburnerError as error:
            render.failure(str(error))
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=OneLineFailures,
    help="Background jobs for slow reasoning models.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # its tracebacks would show local variables, which include secrets
)
keys = typer.Typer(
    help="Create, list and revoke API keys and cancel their jobs, directly in the database.", no_args_is_help=True
)

KeyId = Annotated[str, typer.Argument(metavar="ID", help="A key's id.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command()
def up(
    processes: Annotated[int, typer.Option(min=1, help="Number of worker processes that share the load.")] = 1,
) -> None:
    """Run everything on this machine, in the foreground: Valkey, migrations, API, worker."""
    from cli.up.plan import up as run  # noqa: PLC0415  # a command loads its own part only

    run(processes)


@app.command()
def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: BACKBURNER_HOST].")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on [default: BACKBURNER_PORT].")
    ] = None,
) -> None:
    """Run the HTTP server."""
    from cli.server_commands import become_api  # noqa: PLC0415  # a command loads its own part only

    become_api(host, port)


@app.command(context_settings=PASSED_ON)
def worker(
    context: typer.Context,
    processes: Annotated[
        int, typer.Option(min=1, help="Number of processes that share the load, about one per core.")
    ] = 1,
) -> None:
    """Run a worker; other arguments are passed on to `celery worker`."""
    from cli.server_commands import become_worker  # noqa: PLC0415  # a command loads its own part only
    from cli.worker_group import run_workers  # noqa: PLC0415  # a command loads its own part only

    if processes == 1:
        become_worker(context.args)
    run_workers(processes, context.args)


@app.command()
def migrate() -> None:
    """Migrate the database to this release."""
    from cli.server_commands import migrate as run  # noqa: PLC0415  # a command loads its own part only

    run()


@app.command(context_settings=PASSED_ON, add_help_option=False)
def simulate(context: typer.Context) -> None:
    """Run the built-in provider simulator; `simulate --help` shows its options."""
    from cli.server_commands import become_simulator  # noqa: PLC0415  # a command loads its own part only

    become_simulator(context.args)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check settings, database, broker, workers and provider, without a billed call; exit 1 if any check fails."""
    from cli.doctor.run import doctor as run  # noqa: PLC0415  # a command loads its own part only

    run(as_json=as_json)


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Name of the key; shown in lists and usage.", show_default=False)],
    scope: Annotated[list[str] | None, typer.Option(help="A permission; may be repeated [default: all].")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. It cannot be shown again."""
    from cli.keys import create  # noqa: PLC0415  # a command loads its own part only

    create(name, scope or (), as_json=as_json)


@keys.command("list")
def keys_list(as_json: AsJson = False) -> None:
    """List every key, revoked ones included, without its secret."""
    from cli.keys import show_all  # noqa: PLC0415  # a command loads its own part only

    show_all(as_json=as_json)


@keys.command("revoke")
def keys_revoke(
    key_id: KeyId,
    cancel_jobs: Annotated[
        bool, typer.Option("--cancel-jobs", help="Also cancel its queued and running responses.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Revoke a key at once and end its open streams and waits; its jobs continue unless they are cancelled."""
    from cli.keys import revoke  # noqa: PLC0415  # a command loads its own part only

    revoke(key_id, cancel_jobs=cancel_jobs, as_json=as_json)


@keys.command("cancel-jobs")
def keys_cancel_jobs(key_id: KeyId, as_json: AsJson = False) -> None:
    """Cancel every queued and running response of a key; running calls are aborted."""
    from cli.keys import cancel_jobs  # noqa: PLC0415  # a command loads its own part only

    cancel_jobs(key_id, as_json=as_json)


app.add_typer(responses.app)
app.add_typer(keys, name="keys")
app.add_typer(webhooks.app, name="webhooks")

if __name__ == "__main__":
    app(prog_name="backburner")
