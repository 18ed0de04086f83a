"""`backburner doctor --json` as the tests run it, and a provider that answers its checks."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app

SECRET = "provider-secret"


class Provider:
    """The provider's free routes. `billing`, `models` and `response` are their answers."""

    def __init__(self) -> None:
        self.billing: tuple[int, dict[str, Any]] = (200, {"current_balance": 12.5, "currency": "USD"})
        self.models: tuple[int, dict[str, Any]] = (200, {"data": [{"id": "openai/o3-pro", "aliases": ["o3-pro"]}]})
        self.response: tuple[int, dict[str, Any]] = (404, {"message": "Cannot GET {path}"})
        self.requested: list[str] = []
        self.url = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.requested.append(self.path)
                status, body = provider.billing if self.path.startswith("/v2/billing") else provider.models
                if self.path.startswith("/v1/responses/"):
                    status, body = provider.response
                response_id = self.path.rpartition("/")[2]
                encoded = json.dumps(body).replace("{path}", self.path).replace("{id}", response_id).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        return Handler


Change = Callable[[pytest.MonkeyPatch, Provider], object]
"""A change of the environment or the provider before `doctor` runs."""


def diagnose() -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Run `doctor`; return its exit status, and its results by name."""
    done = CliRunner().invoke(app, ["doctor", "--json"])
    body = json.loads(done.stdout)
    assert body["ok"] is (done.exit_code == 0)
    results: dict[str, list[dict[str, str]]] = {}
    for each in body["checks"]:
        results.setdefault(each["name"], []).append(each)
        assert each["hint"] or each["status"] != "error"
    return done.exit_code, results
