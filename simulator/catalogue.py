"""GET /v1/models: the provider's catalogue, without a key, with prices and an ETag."""

import hashlib
import json
from typing import Any, Final

from simulator.errors import error_reply
from simulator.http_server import Reply, Request, ResponseWriter
from simulator.options import Options
from simulator.state import State

_SECTIONS: Final = frozenset(("pricing", "modalities", "capabilities"))
_PRICE_PER: Final = 1_000_000


def aliases(model: str) -> tuple[str, ...]:
    """Return the other names of a model."""
    bare = model.rpartition("/")[2]
    return (bare, f"{bare}-2025-06-10") if bare == "o3-pro" else (bare,)


def is_offered(model: str, options: Options) -> bool:
    """Return whether calls to this model are answered."""
    return _canonical(model, options.models) is not None and _canonical(model, options.withdrawn_models) is None


def _canonical(name: str, models: tuple[str, ...]) -> str | None:
    wanted = name.lower()
    return next((model for model in models if wanted in (model.lower(), *aliases(model))), None)


class Catalogue:
    """The routes of the models on offer."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def list_models(self, request: Request, writer: ResponseWriter) -> None:
        """Answer GET /v1/models, filtered by `id` and expanded by `include`."""
        options, query = self._state.options, request.query
        wanted = [name for value in query.get("id", ()) for name in value.split(",")]
        withdrawn = next((name for name in wanted if _canonical(name, options.withdrawn_models)), None)
        if withdrawn is not None:
            await writer.send(_gone(withdrawn, request))
            return
        offered = [model for model in options.models if is_offered(model, options)]
        if wanted:
            offered = [model for model in offered if any(_canonical(name, (model,)) for name in wanted)]
        entries = [_entry(model, _sections(query)) for model in offered]
        await writer.send(_tagged({"object": "list", "data": entries}, request))

    async def get_model(self, request: Request, writer: ResponseWriter) -> None:
        """Answer GET /model/{id}. The id stands in the path with its slash."""
        options = self._state.options
        name = request.path.removeprefix("/model/")
        model = _canonical(name, options.models)
        if model is None or not is_offered(model, options):
            await writer.send(_gone(name, request))
            return
        entry = _entry(model, _sections(request.query))
        await writer.send(_tagged({"object": "model", "data": entry}, request))


def _gone(name: str, request: Request) -> Reply:
    return error_reply(404, f"Model {name} not found", request.path)


def _sections(query: dict[str, list[str]]) -> frozenset[str]:
    included = {name for value in query.get("include", ()) for name in value.lower().split(",")}
    if "all" in included or query.get("details", ["false"])[0] in ("true", "1"):
        return _SECTIONS
    return _SECTIONS & included


def _entry(model: str, sections: frozenset[str]) -> dict[str, Any]:
    name = model.rpartition("/")[2]
    entry: dict[str, Any] = {
        "id": model,
        "info": {
            "name": name,
            "developer": "Open AI",
            "description": "Simulated.",
            "releasedAt": "2025-06-10",
            "contextLength": 200_000,
            "outputMax": 100_000,
            "cutoffAt": "2024-05-31",
            "url": "",
            "docsUrl": f"https://docs.aimlapi.com/api-references/text-models-llm/openai/{name}",
        },
        "type": "openai/responses",
        "aliases": list(aliases(model)),
        "tags": ["playground:chat", "tier:tier_3"],
        "shutdown_date": "2026-12-11" if name == "o3-pro" else None,
    }
    if "modalities" in sections:
        entry["modalities"] = {"input": ["image", "text"], "output": ["text"]}
    if "capabilities" in sections:
        entry["capabilities"] = ["reasoning", "streaming", "structured_output", "tools", "vision"]
    if "pricing" in sections:
        entry["pricing"] = {
            "kind": "fixed",
            "currency": "USD",
            "units": [
                {"name": "token", "measure": "input", "price": 27.508, "per": _PRICE_PER},
                {"name": "token", "measure": "output", "price": 110.032, "per": _PRICE_PER},
            ],
        }
    return entry


def _tagged(value: Any, request: Request) -> Reply:
    digest = hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=12).hexdigest()
    tag = f'W/"{digest}"'
    if request.headers.get("if-none-match") == tag:
        return Reply(304, b"", headers={"etag": tag})
    return Reply.json(200, value, {"etag": tag})
