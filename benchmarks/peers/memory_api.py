"""The limit for a poll: FastAPI answering the bytes of a file (`BODY_FILE`) from memory, for any id."""

import os
from pathlib import Path

from fastapi import FastAPI, Response

BODY = Path(os.environ["BODY_FILE"]).read_bytes()
app = FastAPI()


@app.get("/v1/responses/{response_id}")
async def retrieve(response_id: str) -> Response:  # noqa: ARG001  # parsed like ours
    """Return the same body for every id."""
    return Response(BODY, media_type="application/json")
