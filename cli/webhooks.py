"""`backburner webhooks`: endpoints, their deliveries, and redelivery.

Results go to stdout, everything else to stderr. `--json` prints only the server's JSON.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from cli import render
from cli.api_client import Client, Json, path_part
from cli.errors import CommandFailed
from cli.server_address import load_connection
from cli.views import object_of, objects_of, time_of

ALL_EVENTS = ("response.completed", "response.failed", "response.cancelled", "response.incomplete")
SPANS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}

app = typer.Typer(help="Manage webhook endpoints, show their deliveries, and redeliver.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print only the server's JSON.")]
EndpointId = Annotated[str, typer.Argument(metavar="ID", help="An endpoint's id.", show_default=False)]


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="URL to send events to; https unless the server allows http.")],
    *,
    name: Annotated[str | None, typer.Option(help="Name of the endpoint [default: the URL's host].")] = None,
    event: Annotated[
        list[str] | None, typer.Option(help="An event to send; may be repeated [default: all four].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register an endpoint and print its signing secret. It cannot be shown again."""
    host = url.partition("://")[2].partition("/")[0] or url
    body: Json = {"name": name or host, "url": url, "event_types": event or list(ALL_EVENTS)}
    with Client(load_connection()) as client:
        made = client.post("/webhook_endpoints", body)
    _print_with_secret(made, as_json=as_json)


@app.command("list")
def list_endpoints(as_json: AsJson = False) -> None:
    """List your endpoints with their states."""
    with Client(load_connection()) as client:
        page = client.get("/webhook_endpoints", {"limit": "100"})
    if as_json:
        render.print_json(page)
        return
    rows = []
    for each in objects_of(page.get("data")):
        ours = object_of(each.get("backburner"))
        events = ", ".join(str(name).removeprefix("response.") for name in each.get("event_types", ()))
        rows.append((str(each.get("id")), str(each.get("name")), str(each.get("url")), events, _state(ours)))
    if rows:
        render.print_table(("id", "name", "url", "response.*", "status"), rows)
    else:
        render.hint("No webhook endpoints.")


@app.command("test")
def send_test(
    endpoint_id: EndpointId,
    event: Annotated[str, typer.Option(help="Event to send.")] = ALL_EVENTS[0],
    as_json: AsJson = False,
) -> None:
    """Send a test event; exit 1 unless the endpoint answers with 2xx."""
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
    keep_old: Annotated[bool, typer.Option(help="Also sign with the old secret for 24 hours.")] = True,
    as_json: AsJson = False,
) -> None:
    """Replace the signing secret and print the new one. It cannot be shown again."""
    body = {"keep_old_secret_active_for_24_hours": keep_old}
    with Client(load_connection()) as client:
        made = client.post(f"{_path(endpoint_id)}/rotate_secret", body)
    _print_with_secret(made, as_json=as_json)


@app.command()
def delete(endpoint_id: EndpointId, as_json: AsJson = False) -> None:
    """Delete an endpoint with its deliveries."""
    with Client(load_connection()) as client:
        deleted = client.delete(_path(endpoint_id))
    if as_json:
        render.print_json(deleted)
    else:
        render.print_text(f"{endpoint_id} is deleted")


@app.command()
def deliveries(
    endpoint_id: EndpointId,
    *,
    status: Annotated[
        str | None, typer.Option(help="Only deliveries in this status: pending, sending, delivered, failed.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of rows.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Continue after this delivery.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the deliveries to an endpoint, also pending ones, newest first."""
    query = {"limit": str(limit), "status": status, "after": after}
    with Client(load_connection()) as client:
        page = client.get(
            f"{_path(endpoint_id)}/deliveries", {name: value for name, value in query.items() if value is not None}
        )
    if as_json:
        render.print_json(page)
        return
    rows = objects_of(page.get("data"))
    if not rows:
        render.hint("No deliveries.")
        return
    columns = ("id", "event", "response", "status", "attempts", "last", "age", "next")
    render.print_table(columns, [_delivery_row(each, render.now()) for each in rows])
    if page.get("has_more"):
        render.hint(f"There are more: --after {rows[-1].get('id')}")


@app.command()
def redeliver(
    delivery_id: Annotated[str, typer.Argument(metavar="ID", help="A delivery's id.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Redeliver an event now."""
    with Client(load_connection()) as client:
        render.print_status(client.post(f"/webhook_deliveries/{path_part(delivery_id)}/redeliver", {}), as_json=as_json)


@app.command()
def recover(
    endpoint_id: EndpointId,
    since: Annotated[str, typer.Option(help="Unix seconds, an ISO date, or a span such as 30m, 12h, 3d.")],
    as_json: AsJson = False,
) -> None:
    """Redeliver every event that an endpoint has missed since a time; a disabled endpoint is enabled."""
    since_at = _time(since, render.now())
    with Client(load_connection()) as client:
        result = client.post(f"{_path(endpoint_id)}/recover", {"since": since_at.timestamp()})
    if as_json:
        render.print_json(result)
    else:
        render.print_text(f"{result.get('deliveries')} deliveries start again")


def _path(endpoint_id: str) -> str:
    return f"/webhook_endpoints/{path_part(endpoint_id)}"


def _print_with_secret(made: Json, *, as_json: bool) -> None:
    if as_json:
        render.print_json(made)
        return
    render.print_text(str(made.get("signing_secret")))
    render.hint(f"{made.get('id')} ({made.get('url')}): this is the only time that the secret is shown.")


def _state(ours: dict[str, Any]) -> str:
    status = str(ours.get("status", ""))
    if (ends_at := time_of(ours.get("disables_at"))) is not None:
        return f"{status}, disabled on {ends_at:%Y-%m-%d %H:%M} UTC unless it works again"
    return f"{status}: {ours.get('disabled_for')}" if ours.get("disabled_for") else status


def _delivery_row(delivery: dict[str, Any], now: datetime) -> tuple[str, ...]:
    created_at = time_of(delivery.get("created_at")) or now
    next_at = time_of(delivery.get("next_attempt_at"))
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


def _time(text: str, now: datetime) -> datetime:
    try:
        if text[-1:] in SPANS:
            return now - float(text[:-1]) * SPANS[text[-1]]
        if text.replace(".", "", 1).isdigit():
            return datetime.fromtimestamp(float(text), UTC)
        parsed = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise CommandFailed(f"--since {text}: expected unix seconds, an ISO date, or a span such as 12h") from None
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
