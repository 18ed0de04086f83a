"""One response as a user of the official SDK sees it: submit, poll, read."""

from typing import Any

from openai.types.responses import Response

from tests.support.stack import MODEL, Stack
from tests.support.waiting import await_until


def create(stack: Stack, prompt: str, **options: Any) -> Response:
    accepted: Response = stack.openai().responses.create(model=MODEL, input=prompt, background=True, **options)
    return accepted


def poll(stack: Stack, response: Response, seconds: float = 30) -> Response:
    """The polling loop of OpenAI's guide."""
    client = stack.openai()

    def ended() -> Response | None:
        current = client.responses.retrieve(response.id)
        return None if current.status in {"queued", "in_progress"} else current

    return await_until(ended, seconds, lambda: f"{response.id} never ended\n{stack.logs()}")


def facts(response: Response) -> dict[str, Any]:
    extra = response.model_extra
    assert extra is not None
    ours: dict[str, Any] = extra["backburner"]
    return ours


def error_code(response: Response) -> str:
    """The error code as text: the SDK's type lists only OpenAI's codes."""
    assert response.error is not None
    return str(response.error.code)


def run(stack: Stack, prompt: str, **options: Any) -> Response:
    return poll(stack, create(stack, prompt, **options))
