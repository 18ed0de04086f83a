"""The body of `POST /v1/responses`: its public schema, and parsing and checking it.

The models only check and describe. The client's own JSON is kept as it was parsed: without defaults, with unknown
fields and explicit nulls.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from api.request.base import FIRST_FAULT, WITHOUT_NUL, Open, at_most, branch, by_shape
from api.request.decode import read_object
from api.request.errors import request_invalid, value_above
from api.request.items import Input
from api.request.options import BackgroundOptions, Prompt, ReasoningOptions, StreamOptions, TextOptions, Webhook
from api.request.tools import Tool, ToolChoice
from jobs.errors import RequestInvalid

MAX_ATTEMPTS_LIMIT: Final = 20
LONGEST_DEADLINE_SECONDS: Final = 30 * 86400
# 9999-12-31, the last day of a datetime. A time in milliseconds is larger, and so is refused.
LATEST_RUN_AT: Final = 253_402_300_799
# Far above any model's limit; the most that a 32-bit database column holds.
LARGEST_TOKEN_COUNT: Final = 2**31 - 1


class CreateResponse(Open):
    """A request for a response. Every field but `model` may be left out or null, which means the same."""

    # In the order in which OpenAI checks them, as only the first error is returned.

    model: Annotated[str, WITHOUT_NUL] = Field(description="The model to ask.", examples=["openai/o3-pro"])
    input: Input | None = Field(
        default=None,
        description="The input: a text, or the items of a conversation."
        " It may be left out or empty only with `previous_response_id` or `prompt`.",
        examples=["Hello"],
    )
    previous_response_id: Annotated[str, WITHOUT_NUL] | None = Field(
        default=None, description="The response that this one follows. If it still runs, this one waits for it."
    )
    prompt: Prompt | None = None
    include: Annotated[list[str], FIRST_FAULT] | None = Field(
        default=None, description="Additional data to include in the response."
    )
    tools: Annotated[list[Tool], FIRST_FAULT] | None = Field(default=None, description="Tools that the model may use.")
    tool_choice: ToolChoice | None = Field(
        default=None, description="Selects whether the model must use a tool, and which."
    )
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64), WITHOUT_NUL], Annotated[str, Field(max_length=512), WITHOUT_NUL]],
            Field(max_length=16),
            at_most(16),
        ]
        | None
    ) = Field(
        default=None,
        description="Up to 16 labels of your own, stored with the response. Lists can be filtered by them.",
        examples=[{"ticket": "4711"}],
    )
    text: TextOptions | None = None
    parallel_tool_calls: bool | None = Field(default=None, description="Allow the model to call tools in parallel.")
    stream: bool | None = Field(default=None, description="Answer with server-sent events.")
    stream_options: StreamOptions | None = None
    background: bool | None = Field(
        default=None,
        description="Answer at once with `status: queued`. Otherwise the connection is held until the response ends."
        " The response is durable either way and can be fetched by its id.",
    )
    background_options: BackgroundOptions | None = None
    max_output_tokens: Annotated[int, Field(ge=16, le=LARGEST_TOKEN_COUNT)] | None = Field(
        default=None, description="Maximum number of tokens to generate, reasoning included."
    )
    max_tool_calls: int | None = Field(default=None, description="Maximum number of calls of built-in tools.")
    reasoning: ReasoningOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    truncation: Literal["auto", "disabled"] | None = Field(
        default=None, description="`auto` drops the middle of a conversation that is too long; `disabled` fails."
    )
    instructions: str | None = Field(default=None, description="A system message, put before the conversation.")
    store: bool | None = Field(
        default=None,
        description="`false` erases the response ten minutes after its end. Otherwise the server's retention applies.",
    )
    conversation: (
        Annotated[
            Annotated[str, branch("string")] | Annotated[dict[str, Any], branch("object")],
            by_shape("one of a string or object"),
        ]
        | None
    ) = Field(default=None, description="Not supported: use `previous_response_id`.")
    webhook: Webhook | None = Field(
        default=None, description="Backburner's own: send a webhook to this URL when the response ends."
    )
    max_attempts: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description=f"Backburner's own: most calls, retries included; up to {MAX_ATTEMPTS_LIMIT} unless the"
        " server sets another limit.",
    )
    deadline_seconds: Annotated[float, Field(gt=0, le=LONGEST_DEADLINE_SECONDS)] | None = Field(
        default=None,
        description="Backburner's own: seconds from submission, retries included, after which the response fails.",
    )
    on_unknown_outcome: Literal["retry", "fail"] | None = Field(
        default=None,
        description="Backburner's own: what to do after a call that may have been billed and whose answer was lost."
        " `retry` may be billed twice, `fail` never is.",
    )
    priority: Annotated[int, Field(ge=0, le=9)] | None = Field(
        default=None, description="Backburner's own: 0 to 9, the highest runs first; the default is 5."
    )
    run_at: Annotated[float, Field(ge=0, le=LATEST_RUN_AT)] | None = Field(
        default=None, description="Backburner's own: earliest start, in unix seconds."
    )


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A valid body: `fields` are its checked fields, `body` is the client's JSON, to be stored and sent on."""

    fields: CreateResponse
    body: dict[str, Any]


def parse_count(raw: bytes) -> ParsedRequest:
    """Parse and check the body of a token count: that of a create, with all fields optional.

    Raises:
        RequestInvalid: as `parse_request`.
    """
    body = {name: value for name, value in read_object(raw).items() if value is not None}
    try:
        fields = CreateResponse.model_validate({"model": "", **body})
    except ValidationError as error:
        raise request_invalid(error) from None  # pydantic's error holds the prompt
    return ParsedRequest(fields, body)


def parse_request(raw: bytes, *, max_attempts_limit: int = MAX_ATTEMPTS_LIMIT) -> ParsedRequest:
    """Parse and check a body. It raises nothing else, whatever the bytes are.

    Raises:
        RequestInvalid: a field is wrong; the error has the path of the first one.
    """
    body = read_object(raw)
    try:
        fields = CreateResponse.model_validate(body)
    except ValidationError as error:
        raise request_invalid(error) from None  # pydantic's error holds the prompt
    if fields.max_attempts is not None and fields.max_attempts > max_attempts_limit:
        raise value_above("max_attempts", max_attempts_limit, fields.max_attempts)
    # As OpenAI does. A message with an empty text is not empty input.
    if not fields.input and fields.previous_response_id is None and fields.prompt is None:
        message = "Invalid 'input': it is empty. One of 'input', 'previous_response_id' or 'prompt' must be provided."
        raise RequestInvalid(message, "input", "missing_required_parameter")
    return ParsedRequest(fields, body)
