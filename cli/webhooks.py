"""`backburner webhooks`: endpoints, what was sent to them, and sending it again.

Results go to stdout, everything else to stderr; `--json` prints what the server sent and nothing else.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from cli import render
from cli.api_client import Client, Json, path_part
from cli.errors import CommandFailed
from cli.server_address import load_connection
from cli.views import moment_of, object_of, objects_of

ALL_EVENTS = ("response.completed", "response.failed", "response.cancelled", "response.incomplete")
SPANS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}

app = typer.Typer(help="Register webhook endpoints, see what was sent to them, send it again.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print the server's JSON and nothing else.")]
EndpointId = Annotated[str, typer.Argument(metavar="ID", help="An endpoint's id.", show_default=False)]


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="Where to send events; https unless the server allows http.")],
    *,
    name: Annotated[str | None, typer.Option(help="What to call it [default: the URL's host].")] = None,
    event: Annotated[
        list[str] | None, typer.Option(help="What it hears of; may be repeated [default: all four].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register an endpoint and show its signing secret, this once."""
    host = url.partition("://")[2].partition("/")[0] or url
    body: Json = {"name": name or host, "url": url, "event_types": event or list(ALL_EVENTS)}
    with Client(load_connection()) as client:
        made = client.post("/webhook_endpoints", body)
    _print_with_secret(made, as_json=as_json)


@app.command("list")
def list_endpoints(as_json: AsJson = False) -> None:
    """List your endpoints and how they fare."""
    with Client(load_connection()) as client:
        page = client.get("/webhook_endpoints", {"limit": "100"})
    if as_json:
        render.print_json(page)
        return
    rows = []
    for each in objects_of(page.get("data")):
        ours = object_of(each.get("backburner"))
        events = ", ".join(str(name).removeprefix("response.") for name in each.get("event_types", ()))
        rows.append((str(each.get("id")), str(each.get("name")), str(each.get("url")), events, _health(ours)))
    if rows:
        render.print_table(("id", "name", "url", "response.*", "status"), rows)
    else:
        render.hint("No webhook endpoints.")


@app.command("test")
def send_test(
    endpoint_id: EndpointId,
    event: Annotated[str, typer.Option(help="Which event to send.")] = ALL_EVENTS[0],
    as_json: AsJson = False,
) -> None:
    """Send a test event; exit 1 unless the endpoint takes it."""
    with Client(load_connection()) as client:
        result = client.post(f"{_path(endpoint_id)}/test", {"event_type": event}, slow=True)
    status = int(result.get("status_code") or 0)
    if as_json:
        render.print_json(result)
    else:
        render.print_text(f"{endpoint_id} answered HTTP {status}")
    if not 200 <= status < 300:
        raise typer.Exit(1)


@app.command()
def rotate(
    endpoint_id: EndpointId,
    keep_old: Annotated[bool, typer.Option(help="Sign with the old secret as well for 24 hours.")] = True,
    as_json: AsJson = False,
) -> None:
    """Make a fresh signing secret and show it, this once."""
    body = {"keep_old_secret_active_for_24_hours": keep_old}
    with Client(load_connection()) as client:
        made = client.post(f"{_path(endpoint_id)}/rotate_secret", body)
    _print_with_secret(made, as_json=as_json)


@app.command()
def delete(endpoint_id: EndpointId, as_json: AsJson = False) -> None:
    """Erase an endpoint with its log."""
    with Client(load_connection()) as client:
        gone = client.delete(_path(endpoint_id))
    if as_json:
        render.print_json(gone)
    else:
        render.print_text(f"{endpoint_id} is deleted")


@app.command()
def deliveries(
    endpoint_id: EndpointId,
    *,
    status: Annotated[str | None, typer.Option(help="Only those: pending, sending, delivered, failed.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on behind this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was sent to an endpoint, or waits to be, newest first."""
    query = {"limit": str(limit), "status": status, "after": after}
    with Client(load_connection()) as client:
        page = client.get(
            f"{_path(endpoint_id)}/deliveries", {name: value for name, value in query.items() if value is not None}
        )
    if as_json:
        render.print_json(page)
        return
    shown = objects_of(page.get("data"))
    if not shown:
        render.hint("No deliveries.")
        return
    columns = ("id", "event", "response", "status", "attempts", "last", "age", "next")
    render.print_table(columns, [_delivery_row(each, render.now()) for each in shown])
    if page.get("has_more"):
        render.hint(f"There are more: --after {shown[-1].get('id')}")


@app.command()
def redeliver(
    delivery_id: Annotated[str, typer.Argument(metavar="ID", help="A delivery's id.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Try a delivery once more, now."""
    with Client(load_connection()) as client:
        _print_status(client.post(f"/webhook_deliveries/{path_part(delivery_id)}/redeliver", {}), as_json=as_json)


@app.command()
def recover(
    endpoint_id: EndpointId,
    since: Annotated[str, typer.Option(help="Unix seconds, an ISO date, or a span such as 30m, 12h, 3d.")],
    as_json: AsJson = False,
) -> None:
    """Send again all that an endpoint has missed since a moment, each once; a disabled one is enabled."""
    begun_at = _moment(since, render.now())
    with Client(load_connection()) as client:
        result = client.post(f"{_path(endpoint_id)}/recover", {"since": begun_at.timestamp()})
    if as_json:
        render.print_json(result)
    else:
        render.print_text(f"{result.get('deliveries')} deliveries begin anew")


def _path(endpoint_id: str) -> str:
    return f"/webhook_endpoints/{path_part(endpoint_id)}"


def _print_with_secret(made: Json, *, as_json: bool) -> None:
    if as_json:
        render.print_json(made)
        return
    render.print_text(str(made.get("signing_secret")))
    render.hint(f"{made.get('id')} ({made.get('url')}): this is the only time that the secret is shown.")


def _print_status(delivery: Json, *, as_json: bool) -> None:
    if as_json:
        render.print_json(delivery)
    else:
        render.print_text(f"{delivery.get('id')} {delivery.get('status')}")


def _health(ours: dict[str, Any]) -> str:
    status = str(ours.get("status", ""))
    if (ends_at := moment_of(ours.get("disables_at"))) is not None:
        return f"{status}, disabled on {ends_at:%Y-%m-%d %H:%M} UTC unless it works again"
    return f"{status}: {ours.get('disabled_for')}" if ours.get("disabled_for") else status


def _delivery_row(delivery: dict[str, Any], now: datetime) -> tuple[str, ...]:
    created_at = moment_of(delivery.get("created_at")) or now
    next_at = moment_of(delivery.get("next_attempt_at"))
    return (
        str(delivery.get("id")),
        str(delivery.get("event_type")).removeprefix("response."),
        str(delivery.get("response_id")),
        str(delivery.get("status")),
        str(len(objects_of(delivery.get("attempts")))),
        " ".join(str(each) for each in (delivery.get("status_code"), delivery.get("error")) if each is not None),
        render.age(created_at, now),
        "" if next_at is None else f"in {render.age(now, next_at)}",
    )


def _moment(text: str, now: datetime) -> datetime:
    try:
        if text[-1:] in SPANS:
            return now - float(text[:-1]) * SPANS[text[-1]]
        if text.replace(".", "", 1).isdigit():
            return datetime.fromtimestamp(float(text), UTC)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise CommandFailed(f"--since {text}: expected unix seconds, an ISO date, or a span such as 12h") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
