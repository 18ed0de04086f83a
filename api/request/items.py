"""Input items of a request, and the content parts of messages.

Only certain mistakes are refused: a number instead of text, a call without its name. Everything else passes unchecked:
OpenAI adds kinds of items, parts, fields and values every few weeks, and the provider decides which it takes.
`worker.provider.request_dialect` converts them for the provider.
"""

from typing import Annotated, Any, Literal

from api.request.base import FIRST_FAULT, Open, Unread, branch, by_kind, by_shape
from jobs.conversation import kind_of


class InputText(Open):
    """Text for the model."""

    type: Literal["input_text"]
    text: str


class InputImage(Open):
    """An image for the model, by URL, as a data URL or by the id of a file at the provider."""

    type: Literal["input_image"]
    detail: str | None = None
    image_url: str | None = None
    file_id: str | None = None


class InputFile(Open):
    """A file for the model: its content, its URL or its id at the provider."""

    type: Literal["input_file"]
    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None
    filename: str | None = None


class OutputText(Open):
    """Text that the model wrote."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Refusal(Open):
    """The model's refusal to answer."""

    type: Literal["refusal"]
    refusal: str


ContentPart = Annotated[
    Annotated[InputText, branch("input_text")]
    | Annotated[InputImage, branch("input_image")]
    | Annotated[InputFile, branch("input_file")]
    | Annotated[OutputText, branch("output_text")]
    | Annotated[Refusal, branch("refusal")]
    | Annotated[Unread, branch("other")],
    by_kind(("input_text", "input_image", "input_file", "output_text", "refusal")),
]

Content = Annotated[
    Annotated[str, branch("string")] | Annotated[list[ContentPart], FIRST_FAULT, branch("array")],
    by_shape("one of a string or array of content parts"),
]


class Message(Open):
    """A message of the conversation. `type` may be left out, as may `id` and `status` of an earlier answer."""

    type: Literal["message"] | None = None
    id: str | None = None
    role: str
    content: Content
    status: str | None = None


class FunctionCall(Open):
    """The model's call of one of your functions; `arguments` is JSON as text."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionCallOutput(Open):
    """The result of your function: a text, or parts with text, images and files."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content
    id: str | None = None
    status: str | None = None


class ReasoningItem(Open):
    """The model's reasoning, as in a response's `output`."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: Annotated[list[dict[str, Any]], FIRST_FAULT] | None = None
    content: Annotated[list[dict[str, Any]], FIRST_FAULT] | None = None
    encrypted_content: str | None = None
    status: str | None = None


class ItemReference(Open):
    """An item of an earlier response, by its id. `type` may be left out."""

    type: Literal["item_reference"] | None = None
    id: str


InputItem = Annotated[
    Annotated[Message, branch("message")]
    | Annotated[FunctionCall, branch("function_call")]
    | Annotated[FunctionCallOutput, branch("function_call_output")]
    | Annotated[ReasoningItem, branch("reasoning")]
    | Annotated[ItemReference, branch("item_reference")]
    | Annotated[Unread, branch("other")],
    by_kind(("message", "function_call", "function_call_output", "reasoning", "item_reference"), kind_of),
]

Input = Annotated[
    Annotated[str, branch("string")] | Annotated[list[InputItem], FIRST_FAULT, branch("array")],
    by_shape("one of a string or array of input items"),
]
