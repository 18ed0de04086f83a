"""Routes that the SDKs have methods for and this server does not offer: refused with a clear error."""

from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Request

from jobs.errors import NotOffered

METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]
ALTERNATIVES: Final[Mapping[str, str]] = {
    "assistants": "Use responses.",
    "audio": "This server runs responses only.",
    "batches": "Send background responses instead; any number of them can be queued.",
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
    """Refuse the request.

    Raises:
        NotOffered: always.
    """
    resource = request.url.path.removeprefix("/v1/").partition("/")[0]
    alternative = ALTERNATIVES.get(resource, COMPACT)
    raise NotOffered(f"{request.method} {request.url.path} is not offered by this server. {alternative}")


router.add_api_route("/responses/compact", _refuse, methods=["POST"])
for _resource in ALTERNATIVES:
    router.add_api_route(f"/{_resource}", _refuse, methods=METHODS)
    router.add_api_route(f"/{_resource}/{{rest:path}}", _refuse, methods=METHODS)
