"""Generated pages in the tree equal what the code generates."""

from pathlib import Path

import httpx2
import pytest
from openai import OpenAI

from docs.generate import GENERATED, sdk_error


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Path) -> None:
    assert path.read_text("utf-8") == GENERATED[path](), "run: make docs"


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 408, 409, 413, 422, 429, 500, 502, 503, 504])
def test_the_sdk_raises_what_the_page_says(status: int) -> None:
    answer = httpx2.Response(status, request=httpx2.Request("POST", "http://x"))
    raised = OpenAI(api_key="x")._make_status_error("x", body=None, response=answer)
    assert type(raised).__name__ == sdk_error(status)
