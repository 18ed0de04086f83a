"""What `doctor` asks the provider, none of which costs money: is it there, does it offer our models, is the key good,
and can responses be fetched by id where they are made in the background.

The routes are AI/ML API's (`GET /v1/models?id=` needs no key, `GET /v2/billing` shows the balance); a provider that
has no such route is said to be unchecked, never to be wrong.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from cli.doctor.result import Finding, bad, doubtful, good
from jobs.errors import SettingsError
from jobs.settings import Settings, Transport
from worker.provider.httpx_clients import HttpxClients

MAX_WAIT_SECONDS = 10
LOW_BALANCE_USD = 1
NOBODYS_RESPONSE = "resp_00000000000000000000000000000000000000000000000000"


def check_provider(settings: Settings) -> Iterator[Finding]:
    """The provider's findings: reachability, one per model, and the key. Without a key, nothing is asked."""
    if settings.sends_in_clear:
        problem = f"{settings.provider_shown} is plain http: its key, prompts and answers can be read on the way"
        yield doubtful("provider", problem, "set BACKBURNER_PROVIDER_BASE_URL to https")
    if settings.provider_api_key is None:
        problem = "none: `up` answers from its simulator, and a worker that runs alone has its calls refused"
        yield doubtful("provider key", problem, "set BACKBURNER_PROVIDER_API_KEY")
        return
    try:
        # those of the calls, so that a proxy or an authority that one can use the other can
        with HttpxClients(settings.provider_base_url, settings.provider_api_key).take() as client:
            client.headers["authorization"] = f"Bearer {settings.provider_api_key.get_secret_value()}"
            client.timeout = httpx.Timeout(MAX_WAIT_SECONDS)
            findings = [_check_model(client, model) for model in settings.models]
            findings.append(_check_key(client, settings.provider_beside("/v2/billing")))
            if settings.provider_transport is Transport.BACKGROUND:
                findings.append(_check_background(client))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        hint = "check BACKBURNER_PROVIDER_BASE_URL, the network and its proxy"
        yield bad("provider", f"{settings.provider_shown}: {str(error) or type(error).__name__}", hint)
        return
    except SettingsError as error:
        yield bad("provider", str(error), "correct the variable; the worker ends at start because of it")
        return
    yield good("provider", settings.provider_shown)
    yield from findings


def _check_model(client: httpx.Client, model: str) -> Finding:
    answer = client.get("models", params={"id": model, "include": "pricing"})
    if answer.status_code == 404:  # of the model, or of the route
        answer = client.get("models")
        if answer.status_code == 404:
            return doubtful("model", f"{model}: not checked, the provider lists no models", "")
    if not answer.is_success:
        return doubtful("model", f"{model}: not checked, the provider answers HTTP {answer.status_code}", "")
    entry = _find(_json(answer), model)
    if entry is None:
        return bad("model", f"{model} is not offered by the provider", "correct BACKBURNER_MODELS")
    return good("model", f"{model} is offered{_price(entry)}")


def _check_key(client: httpx.Client, url: str) -> Finding:
    name = "provider key"
    answer = client.get(url)
    if answer.status_code in {401, 403}:
        return _refused(name, answer)
    if answer.status_code in {404, 405}:
        return doubtful(name, "not checked: this provider has no such route", "")
    if not answer.is_success:
        return doubtful(name, f"not checked: the provider answers HTTP {answer.status_code}", "")
    balance = _json(answer).get("current_balance")
    if not isinstance(balance, int | float):
        return good(name, "accepted")
    if balance < LOW_BALANCE_USD:
        return doubtful(name, f"accepted, balance {balance:,.2f} USD", "top up: calls are refused without credit")
    return good(name, f"accepted, balance {balance:,.2f} USD")


def _check_background(client: httpx.Client) -> Finding:
    """Whether responses can be fetched by id, as far as a made-up id can tell: its refusal must be about that id."""
    name = "background mode"
    answer = client.get(f"responses/{NOBODYS_RESPONSE}")
    status = answer.status_code
    said = _message(answer).replace(answer.request.url.path, "")  # a path may be repeated by whoever has no such route
    hint = "set BACKBURNER_PROVIDER_TRANSPORT to plain or stream: what is bought there may never be fetched"
    if status in {400, 404, 410, 422} and NOBODYS_RESPONSE in said:
        return good(name, "responses can be fetched by id")
    if status in {405, 501}:
        return doubtful(name, f"the provider has no GET /responses/{{id}} (HTTP {status})", hint)
    if status == 404:
        return doubtful(name, "the provider seems to have no GET /responses/{id}: its 404 names no id", hint)
    return doubtful(name, f"not checked: a made-up id is answered HTTP {status}", "")


def _refused(name: str, answer: httpx.Response) -> Finding:
    message = f"refused with HTTP {answer.status_code}: {_message(answer)}"
    if answer.status_code == 403 and "credit" not in message.lower():
        # a key limited to calls may not be allowed to see the account; that says nothing about its calls
        return doubtful(name, f"not checked, the balance is {message}", "")
    return bad(name, message, "check BACKBURNER_PROVIDER_API_KEY: the key itself, its credit and its limits")


def _find(body: Mapping[str, Any], model: str) -> Mapping[str, Any] | None:
    data = body.get("data", body)
    for entry in data if isinstance(data, list) else [data]:
        if isinstance(entry, dict) and model in (entry.get("id"), *(entry.get("aliases") or ())):
            return entry
    return None


def _price(entry: Mapping[str, Any]) -> str:
    """The provider's own price list for the model, where it gives one per token."""
    pricing = entry.get("pricing")
    units = pricing.get("units") if isinstance(pricing, dict) else None
    parts = [
        f"{unit.get('price')} USD per {unit.get('per'):,} {unit.get('measure')} tokens"
        for unit in units or ()
        if isinstance(unit, dict) and unit.get("name") == "token" and isinstance(unit.get("per"), int)
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _message(answer: httpx.Response) -> str:
    body = _json(answer)
    error = body.get("error")
    message = body.get("message") or (error.get("message") if isinstance(error, dict) else None)
    return str(message or "no reason given")[:300]


def _json(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
