"""Checks of the provider: its address, models, key and background mode."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cli.doctor.local import SOON, check_shutdown_dates
from cli.doctor.result import Level
from jobs.model_catalog import Catalogue
from jobs.settings import load_settings
from tests.cli.doctor.diagnosis import Provider, diagnose
from tests.simulator.provider import running


def test_the_query_of_the_base_url_is_kept(healthy: pytest.MonkeyPatch, provider: Provider) -> None:
    healthy.setenv("BACKBURNER_PROVIDER_BASE_URL", f"{provider.url}?api-version=1")
    healthy.setenv("BACKBURNER_PROVIDER_TRANSPORT", "background")
    healthy.setenv("BACKBURNER_MODELS", "openai/o3-pro")
    _, results = diagnose()
    assert "openai/o3-pro is offered" in [each["message"] for each in results["model"]]
    assert results["provider key"][0]["status"] == "ok"
    models, billing, response = (urlsplit(path) for path in provider.requested)
    assert (models.path, parse_qs(models.query)) == (
        "/v1/models",
        {"api-version": ["1"], "id": ["openai/o3-pro"], "include": ["pricing"]},
    )
    assert (billing.path, billing.query) == ("/v2/billing", "api-version=1")
    assert response.path.startswith("/v1/responses/")
    assert response.query == "api-version=1"


def test_plain_http_to_a_remote_provider_is_a_warning(healthy: pytest.MonkeyPatch) -> None:
    healthy.delenv("BACKBURNER_PROVIDER_API_KEY")  # no request is sent then
    _, results = diagnose()
    assert "provider" not in results
    healthy.setenv("BACKBURNER_PROVIDER_BASE_URL", "http://user:hush@provider.invalid/v1")
    _, results = diagnose()
    [result] = results["provider"]
    assert result["status"] == "warning"
    assert result["message"].startswith("http://provider.invalid/v1 is plain http")
    assert "https" in result["hint"]


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ((404, {"error": {"message": "Response with id '{id}' not found."}}), "ok", "can be fetched"),
        ((400, {"message": "Invalid id: {id}"}), "ok", "can be fetched"),
        ((404, {"message": "Cannot GET {path}"}), "warning", "seems to have no GET"),
        ((404, {"message": "Not Found", "path": "{path}"}), "warning", "seems to have no GET"),
        ((404, {}), "warning", "seems to have no GET"),
        ((405, {"message": "Method Not Allowed"}), "warning", "has no GET"),
        ((401, {"message": "No."}), "warning", "not checked: a made-up id was answered with HTTP 401"),
        ((200, {}), "warning", "not checked: a made-up id was answered with HTTP 200"),
        ((500, {}), "warning", "not checked: a made-up id was answered with HTTP 500"),
    ],
)
def test_background_mode_needs_a_route_to_fetch_by_id(
    healthy: pytest.MonkeyPatch, provider: Provider, answer: tuple[int, dict[str, Any]], status: str, words: str
) -> None:
    provider.response = answer
    healthy.setenv("BACKBURNER_PROVIDER_TRANSPORT", "background")
    code, results = diagnose()
    assert code == 0
    [found] = results["background mode"]
    assert found["status"] == status
    assert words in found["message"]


def test_background_mode_of_the_simulator_is_recognised(healthy: pytest.MonkeyPatch) -> None:
    healthy.setenv("BACKBURNER_PROVIDER_TRANSPORT", "background")
    for flags, status in (((), "warning"), (("--native-background",), "ok")):
        with running(*flags) as simulator:
            healthy.setenv("BACKBURNER_PROVIDER_BASE_URL", f"{simulator.url}/v1")
            _, results = diagnose()
        assert results["background mode"][0]["status"] == status


def test_a_model_near_its_shutdown_date_is_a_warning(home: Path) -> None:
    settings = load_settings()
    (model,) = Catalogue(settings.models).models
    end = model.shutdown_date
    assert end is not None

    def messages(today: date) -> list[str]:
        results = list(check_shutdown_dates(settings, today))
        assert all(each.level is Level.WARNING for each in results)
        return [each.message.rpartition(", ")[2] for each in results]

    assert messages(end - SOON - timedelta(days=1)) == []
    assert messages(end - timedelta(days=19)) == ["in 19 days"]
    assert messages(end) == ["today"]
    assert messages(end + timedelta(days=2)) == ["2 days ago"]
