"""What the SDKs have methods for and this server does not do: refused by name, so that nobody looks for a mistake."""

from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Request

from jobs.errors import NotOffered

METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]
NOT_OFFERED: Final[Mapping[str, str]] = {
    "assistants": "Use responses.",
    "audio": "This server runs responses only.",
    "batches": "Send background responses instead; as many as you like are queued.",
    "chat": "Use responses.",
    "completions": "Use responses.",
    "containers": "This server runs responses only.",
    "conversations": "Name the last response as 'previous_response_id'.",
    "embeddings": "This server runs responses only.",
    "evals": "This server runs responses only.",
    "files": "Send a file's content in the request, as 'file_data' of an 'input_file'.",
    "fine_tuning": "This server runs responses only.",
    "images": "This server runs responses only.",
    "moderations": "This server runs responses only.",
    "realtime": "This server runs responses only.",
    "threads": "Use responses.",
    "uploads": "Send a file's content in the request, as 'file_data' of an 'input_file'.",
    "vector_stores": "This server runs responses only.",
    "videos": "This server runs responses only.",
}
COMPACT: Final = "Send fewer items, or 'truncation': 'auto'."

router = APIRouter(include_in_schema=False)


def _refuse(request: Request) -> None:
    """Say what is not there.

    Raises:
        NotOffered: always.
    """
    resource = request.url.path.removeprefix("/v1/").partition("/")[0]
    raise NotOffered(_said(request, NOT_OFFERED.get(resource, COMPACT)))


def _said(request: Request, instead: str) -> str:
    return f"{request.method} {request.url.path} is not offered by this server. {instead}"


router.add_api_route("/responses/compact", _refuse, methods=["POST"])
for _resource in NOT_OFFERED:
    router.add_api_route(f"/{_resource}", _refuse, methods=METHODS)
    router.add_api_route(f"/{_resource}/{{rest:path}}", _refuse, methods=METHODS)
