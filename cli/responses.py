"""Commands for responses: submit, get, wait, list, cancel, retry, attempts, usage.

Results go to stdout, everything else to stderr. `--json` prints only the server's JSON.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import render
from cli.api_client import Client, Json
from cli.errors import CommandFailed
from cli.server_address import load_connection
from cli.views import AttemptView, ResponseView, UsageView
from cli.watch import come_back, wait_for

INTERRUPTED = 130
STDIN = "-"

app = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="Print only the server's JSON.")]
ResponseId = Annotated[str, typer.Argument(metavar="ID", help="A response's id.", show_default=False)]
ResponseIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Responses' ids.", show_default=False)]


class Unknown(StrEnum):
    """The action after a call that may have been billed and whose answer was lost."""

    RETRY = "retry"
    FAIL = "fail"


@app.command()
def submit(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - reads standard input.")] = None,
    *,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the prompt from this file.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model to use [default: the server's first].")
    ] = None,
    instructions: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(min=16, help="Maximum tokens of the answer, reasoning included.")
    ] = None,
    effort: Annotated[str | None, typer.Option(help="How hard to reason: low, medium, high.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label; may be repeated.")] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="0 to 9; higher goes first.")] = None,
    max_attempts: Annotated[int | None, typer.Option(min=1, help="Maximum number of calls.")] = None,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Fail this long after submission, retries included.")
    ] = None,
    on_unknown_outcome: Annotated[
        Unknown | None, typer.Option(help="Action after a call that may have been billed and whose answer was lost.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--background", help="Wait for the answer, or return at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a prompt and print its id, or with --wait its answer. It is durable once this returns."""
    body: Json = {"input": _prompt(prompt, file), "background": True}
    optional: dict[str, Any] = {
        "instructions": instructions,
        "max_output_tokens": max_output_tokens,
        "reasoning": {"effort": effort} if effort else None,
        "metadata": _pairs(metadata or ()),
        "priority": priority,
        "max_attempts": max_attempts,
        "deadline_seconds": deadline,
        "on_unknown_outcome": on_unknown_outcome,
    }
    body |= {name: value for name, value in optional.items() if value is not None and value != {}}
    with Client(load_connection()) as client:
        created = client.create({"model": model or _first_model(client), **body})
        view = ResponseView.of(created)
        if wait:
            with _hint_on_interrupt(view.id):
                _conclude(wait_for(client, view.id), as_json=as_json)
        elif as_json:
            render.print_json(created)
        else:
            render.print_text(view.id)
            render.hint(f"{view.status}; wait for it with: backburner wait {view.id}")


@app.command()
def get(response_id: ResponseId, as_json: AsJson = False) -> None:
    """Show a response in its present state."""
    with Client(load_connection()) as client:
        body = client.retrieve(response_id)
    if as_json:
        render.print_json(body)
    else:
        render.print_response(ResponseView.of(body), render.now())


@app.command()
def wait(
    response_ids: ResponseIds,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="Maximum time to wait.")] = None,
    as_json: AsJson = False,
) -> None:
    """Wait for responses and print their answers; exit 1 if one failed or was cancelled."""
    succeeded = True
    with Client(load_connection()) as client:
        for response_id in response_ids:
            with _hint_on_interrupt(response_id):
                body = wait_for(client, response_id, timeout)
            if len(response_ids) > 1 and not as_json:
                render.hint(f"{response_id}:")
            succeeded = _report(body, as_json=as_json) and succeeded
    if not succeeded:
        raise typer.Exit(1)


@app.command("list")
def list_responses(
    status: Annotated[str | None, typer.Option(help="Only responses in this status.")] = None,
    model: Annotated[str | None, typer.Option(help="Only responses of this model.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only responses with this label; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of rows.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Continue after this response.")] = None,
    as_json: AsJson = False,
) -> None:
    """List your responses, newest first."""
    query = {"limit": str(limit), "status": status, "model": model, "after": after}
    query |= {f"metadata[{key}]": value for key, value in _pairs(metadata or ()).items()}
    with Client(load_connection()) as client:
        page = client.list({name: value for name, value in query.items() if value is not None})
    if as_json:
        render.print_json(page)
        return
    views = [ResponseView.of(each) for each in page.get("data", [])]
    if not views:
        render.hint("No responses.")
        return
    render.print_list(views, render.now())
    if page.get("has_more"):
        render.hint(f"There are more: --after {views[-1].id}")


@app.command()
def cancel(response_ids: ResponseIds, as_json: AsJson = False) -> None:
    """Cancel queued or running responses."""
    failed = False
    with Client(load_connection()) as client:
        for response_id in response_ids:
            try:
                body = client.cancel(response_id)
            except CommandFailed as error:
                if len(response_ids) == 1:
                    raise
                render.failure(f"{response_id}: {error}")
                failed = True
            else:
                render.print_status(body, as_json=as_json)
    if failed:
        raise typer.Exit(1)


@app.command()
def retry(response_id: ResponseId, as_json: AsJson = False) -> None:
    """Run a failed or cancelled response again, under the same id."""
    with Client(load_connection()) as client:
        render.print_status(client.retry(response_id), as_json=as_json)


@app.command()
def attempts(
    response_id: ResponseId,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print what failed calls received instead of an answer, up to 256 KB each.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show every call made to the provider for a response, first to last."""
    with Client(load_connection()) as client:
        body = client.attempts(response_id, with_bodies=raw)
    if as_json:
        render.print_json(body)
        return
    views = [AttemptView.of(each) for each in body.get("data", [])]
    if not raw:
        render.print_attempts(views, render.now())
        return
    with_body = [view for view in views if view.body is not None]
    if not with_body:
        render.hint("No body of a failed call was kept.")
    for view in with_body:
        render.hint(f"attempt {view.number}, HTTP {view.http_status}:")
        render.print_text(view.body or "")


@app.command()
def usage(
    days: Annotated[int, typer.Option(min=1, max=3660, help="Number of days, today included.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Show tokens, calls and cost by day, model and key."""
    now = render.now()
    first = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days - 1)
    with Client(load_connection()) as client:
        body = client.usage(int(first.timestamp()), int(now.timestamp()) + 1)
    if as_json:
        render.print_json(body)
        return
    rows = [UsageView.of(each) for each in body.get("data", [])]
    if rows:
        render.print_usage(rows)
    else:
        render.hint("No usage.")


def _prompt(argument: str | None, file: Path | None) -> str:
    if argument is not None and file is not None:
        raise typer.BadParameter("give the prompt as an argument or with --file, not both", param_hint="PROMPT")
    if file is not None and str(file) != STDIN:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise CommandFailed(f"--file {file}: {reason}") from None
    elif argument not in (None, STDIN):
        text = str(argument)
    elif argument is None and file is None and sys.stdin.isatty():
        raise typer.BadParameter("give a prompt, --file FILE, or - for standard input", param_hint="PROMPT")
    else:
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError:
            raise CommandFailed("standard input: not UTF-8 text") from None
    if not text.strip():
        raise typer.BadParameter("the prompt is empty", param_hint="PROMPT")
    return text


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"expected KEY=VALUE, got {each!r}", param_hint="--metadata")
        pairs[key] = value
    return pairs


def _first_model(client: Client) -> str:
    offered = client.models()
    if not offered:
        raise CommandFailed("The server offers no model; set one with --model")
    return offered[0]


@contextmanager
def _hint_on_interrupt(response_id: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        render.hint(f"{response_id}: {come_back(response_id)}")
        raise typer.Exit(INTERRUPTED) from None


def _conclude(body: Json, *, as_json: bool) -> None:
    if not _report(body, as_json=as_json):
        raise typer.Exit(1)


def _report(body: Json, *, as_json: bool) -> bool:
    """Print how a response ended; return whether it has an answer."""
    view = ResponseView.of(body)
    if as_json:
        render.print_json(body)
    elif view.text:
        render.print_text(view.text)
    if view.status in {"failed", "cancelled"}:
        render.failure(f"{view.id} {view.status}" + (f": {view.error}" if view.error else ""))
        return False
    if view.status == "incomplete":
        render.hint(f"{view.id} is incomplete: {view.incomplete_reason or 'the provider stopped early'}")
    return True
