"""The smaller objects of a request: answer format, reasoning, stored prompt, and where to send the webhook."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from api.request.base import FIRST_FAULT, WITHOUT_NUL, Closed, Open, Unread, branch, by_kind, refused
from jobs.webhooks.protocol import SHORTEST_SECRET_BYTES, key_of
from jobs.webhooks.url_policy import LONGEST_URL, DestinationRefused, parse_destination


class JsonSchemaFormat(Open):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None
    description: str | None = None


class TextOptions(Open):
    """The form of the answer; plain text when nothing is said."""

    format: (
        Annotated[
            Annotated[JsonSchemaFormat, branch("json_schema")] | Annotated[Unread, branch("other")],
            by_kind(("json_schema",)),
        ]
        | None
    ) = None
    verbosity: str | None = None


class ReasoningOptions(Open):
    """How long the model may think, and whether it sums its thoughts up. The values are the model's to know."""

    effort: str | None = None
    summary: str | None = None


class Prompt(Open):
    """A prompt stored at the provider."""

    id: str
    variables: dict[str, Any] | None = None
    version: str | None = None


def _no_continuation(value: object) -> object:
    if value is not None:
        raise refused("background work is not continued by this server; use 'previous_response_id'.")
    return value


class BackgroundOptions(Open):
    """How soon OpenAI would have to be done. Here every response runs as soon as there is a slot for it."""

    completion_window: Literal["soonest", "2h", "8h"] | None = Field(default=None, description="Without effect.")
    continuation_id: Annotated[Any, AfterValidator(_no_continuation)] = Field(
        default=None, description="Refused: a follow-up is made by `previous_response_id`."
    )


class StreamOptions(Open):
    """Details of the stream."""

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


# Checked in full where it is known what the operator lets through; here as far as every server agrees.
DestinationUrl = Annotated[str, Field(max_length=LONGEST_URL), WITHOUT_NUL, AfterValidator(_destination)]


class Webhook(Closed):
    """Where to tell the end of this one response. Registered endpoints hear of it all the same."""

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
    ) = Field(default=None, description="All four when left out.")
    secret: Annotated[str, Field(min_length=1, max_length=512), WITHOUT_NUL, AfterValidator(_signing_secret)] | None = (
        Field(
            default=None,
            description="Signs the deliveries (Standard Webhooks): base64 after `whsec_`, or any other text as it is;"
            " 16 bytes at least.",
        )
    )
