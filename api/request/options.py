"""The smaller objects of a request: text format, reasoning, stored prompt, background and stream options, webhook."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from api.request.base import FIRST_FAULT, WITHOUT_NUL, Closed, Open, Unread, branch, by_kind, refused
from jobs.webhooks.protocol import SHORTEST_SECRET_BYTES, key_of
from jobs.webhooks.url_policy import LONGEST_URL, DestinationRefused, parse_destination


class JsonSchemaFormat(Open):
    """JSON that matches a schema."""

    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None
    description: str | None = None


class TextOptions(Open):
    """The format of the answer; plain text by default."""

    format: (
        Annotated[
            Annotated[JsonSchemaFormat, branch("json_schema")] | Annotated[Unread, branch("other")],
            by_kind(("json_schema",)),
        ]
        | None
    ) = None
    verbosity: str | None = None


class ReasoningOptions(Open):
    """The model's reasoning effort, and whether it writes a summary. The model defines the values."""

    effort: str | None = None
    summary: str | None = None


class Prompt(Open):
    """A prompt stored at the provider."""

    id: str
    variables: dict[str, Any] | None = None
    version: str | None = None


def _no_continuation(value: object) -> object:
    if value is not None:
        raise refused("this server does not continue background work; use 'previous_response_id'.")
    return value


class BackgroundOptions(Open):
    """OpenAI's time limit for background work. Here every response runs as soon as a slot is free."""

    completion_window: Literal["soonest", "2h", "8h"] | None = Field(default=None, description="Ignored.")
    continuation_id: Annotated[Any, AfterValidator(_no_continuation)] = Field(
        default=None, description="Refused: use `previous_response_id` for a follow-up."
    )


class StreamOptions(Open):
    """Options of the stream."""

    include_obfuscation: bool | None = None


def _destination(url: str) -> str:
    try:
        parse_destination(url)
    except DestinationRefused as error:
        raise refused(str(error)) from None
    return url


def _signing_secret(secret: str) -> str:
    try:
        key = key_of(secret)
    except ValueError as error:
        raise refused(f"{error}.") from None
    if len(key) < SHORTEST_SECRET_BYTES:
        raise refused(f"expected at least {SHORTEST_SECRET_BYTES} bytes, better 24 to 64 random ones.")
    return secret


# Checked here as far as the rules are the same on every server; the operator's policy is checked later.
DestinationUrl = Annotated[str, Field(max_length=LONGEST_URL), WITHOUT_NUL, AfterValidator(_destination)]


class Webhook(Closed):
    """A webhook for this response alone. Registered endpoints get the event as well."""

    url: DestinationUrl = Field(
        description="https unless the server allows http; private addresses are refused.",
        examples=["https://example.com/hooks/backburner"],
        json_schema_extra={"format": "uri"},
    )
    events: (
        Annotated[
            list[Literal["response.completed", "response.failed", "response.cancelled", "response.incomplete"]],
            FIRST_FAULT,
            Field(min_length=1, max_length=16),
        ]
        | None
    ) = Field(default=None, description="All four by default.")
    secret: Annotated[str, Field(min_length=1, max_length=512), WITHOUT_NUL, AfterValidator(_signing_secret)] | None = (
        Field(
            default=None,
            description="Signs the deliveries (Standard Webhooks): base64 after `whsec_`, or any other text as it is;"
            " at least 16 bytes.",
        )
    )
