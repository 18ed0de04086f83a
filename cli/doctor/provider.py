"""Checks of the provider, free of charge: its address, our models, the key, and fetching by id in background mode.

The routes are AI/ML API's: `GET /v1/models?id=` needs no key, `GET /v2/billing` shows the balance. If a provider lacks
a route, the result is "not checked", never an error.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from cli.doctor.result import CheckResult, failed, passed, warning
from jobs.errors import SettingsError
from jobs.settings import Settings, Transport
from worker.provider.httpx_clients import HttpxClients

MAX_WAIT_SECONDS = 10
LOW_BALANCE_USD = 1
MADE_UP_ID = "resp_00000000000000000000000000000000000000000000000000"


def check_provider(settings: Settings) -> Iterator[CheckResult]:
    """Check that the provider answers, offers each model and accepts the key. Without a key, no request is sent."""
    if settings.sends_in_clear:
        problem = f"{settings.provider_shown} is plain http: its key, prompts and answers can be read in transit"
        yield warning("provider", problem, "set BACKBURNER_PROVIDER_BASE_URL to https")
    if settings.provider_api_key is None:
        problem = "none: `up` answers from its simulator, and calls of a worker without `up` are refused"
        yield warning("provider key", problem, "set BACKBURNER_PROVIDER_API_KEY")
        return
    try:
        # the clients of the workers, so that `doctor` uses the same proxies and certificates
        with HttpxClients(settings.provider_base_url, settings.provider_api_key).take() as client:
            client.headers["authorization"] = f"Bearer {settings.provider_api_key.get_secret_value()}"
            client.timeout = httpx.Timeout(MAX_WAIT_SECONDS)
            results = [_check_model(client, model) for model in settings.models]
            results.append(_check_key(client, settings.provider_beside("/v2/billing")))
            if settings.provider_transport is Transport.BACKGROUND:
                results.append(_check_background(client))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        hint = "check BACKBURNER_PROVIDER_BASE_URL, the network and its proxy"
        yield failed("provider", f"{settings.provider_shown}: {str(error) or type(error).__name__}", hint)
        return
    except SettingsError as error:
        yield failed("provider", str(error), "correct the variable; workers do not start with it")
        return
    yield passed("provider", settings.provider_shown)
    yield from results


def _check_model(client: httpx.Client, model: str) -> CheckResult:
    answer = client.get("models", params={"id": model, "include": "pricing"})
    if answer.status_code == 404:  # the model is unknown, or there is no such route
        answer = client.get("models")
        if answer.status_code == 404:
            return warning("model", f"{model}: not checked, the provider has no list of models", "")
    if not answer.is_success:
        return warning("model", f"{model}: not checked, the provider answered HTTP {answer.status_code}", "")
    entry = _find(_json(answer), model)
    if entry is None:
        return failed("model", f"{model} is not offered by the provider", "correct BACKBURNER_MODELS")
    return passed("model", f"{model} is offered{_price(entry)}")


def _check_key(client: httpx.Client, url: str) -> CheckResult:
    name = "provider key"
    answer = client.get(url)
    if answer.status_code in {401, 403}:
        return _refused(name, answer)
    if answer.status_code in {404, 405}:
        return warning(name, "not checked: this provider has no such route", "")
    if not answer.is_success:
        return warning(name, f"not checked: the provider answered HTTP {answer.status_code}", "")
    balance = _json(answer).get("current_balance")
    if not isinstance(balance, int | float):
        return passed(name, "accepted")
    if balance < LOW_BALANCE_USD:
        return warning(name, f"accepted, balance {balance:,.2f} USD", "top up: without credit calls are refused")
    return passed(name, f"accepted, balance {balance:,.2f} USD")


def _check_background(client: httpx.Client) -> CheckResult:
    """Check that responses can be fetched by id: a refusal of a made-up id must name that id."""
    name = "background mode"
    answer = client.get(f"responses/{MADE_UP_ID}")
    status = answer.status_code
    message = _message(answer).replace(answer.request.url.path, "")  # servers repeat the path of an unknown route
    hint = "set BACKBURNER_PROVIDER_TRANSPORT to plain or stream: else paid answers may never be fetched"
    if status in {400, 404, 410, 422} and MADE_UP_ID in message:
        return passed(name, "responses can be fetched by id")
    if status in {405, 501}:
        return warning(name, f"the provider has no GET /responses/{{id}} (HTTP {status})", hint)
    if status == 404:
        return warning(name, "the provider seems to have no GET /responses/{id}: its 404 does not name the id", hint)
    return warning(name, f"not checked: a made-up id was answered with HTTP {status}", "")


def _refused(name: str, answer: httpx.Response) -> CheckResult:
    message = f"refused with HTTP {answer.status_code}: {_message(answer)}"
    if answer.status_code == 403 and "credit" not in message.lower():
        # a key may be limited to calls and not be allowed to read the balance
        return warning(name, f"not checked: the balance was {message}", "")
    return failed(name, message, "check BACKBURNER_PROVIDER_API_KEY, its credit and its limits")


def _find(body: Mapping[str, Any], model: str) -> Mapping[str, Any] | None:
    data = body.get("data", body)
    for entry in data if isinstance(data, list) else [data]:
        if isinstance(entry, dict) and model in (entry.get("id"), *(entry.get("aliases") or ())):
            return entry
    return None


def _price(entry: Mapping[str, Any]) -> str:
    """Return the provider's prices per token of the model, in parentheses. Empty if it gives none."""
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
