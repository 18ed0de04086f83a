"""The conversation that a request carries: input items and the content parts of messages.

The provider takes 12 forms of items (10 types, as a message has three forms); those are checked wholly. OpenAI has
more, which are passed through unread; a type that neither knows is refused.
"""

from typing import Annotated, Any, Final, Literal, get_args

from api.request_types import FIRST_FAULT, Open, absent, branch, by_kind, by_shape

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputText(Open):
    """Text for the model."""

    type: Literal["input_text"]
    text: str


class InputImage(Open):
    """An image for the model, by URL or as a data URL."""

    type: Literal["input_image"]
    detail: Literal["high", "low", "auto"] = absent()
    image_url: str | None = None


class InputFile(Open):
    """A file for the model."""

    type: Literal["input_file"]
    file_data: str = absent(description="The file's content, base64 in a data URL.")
    filename: str = absent()


ContentPart = Annotated[
    Annotated[InputText, branch("input_text")]
    | Annotated[InputImage, branch("input_image")]
    | Annotated[InputFile, branch("input_file")],
    by_kind(("input_text", "input_image", "input_file")),
]


class Message(Open):
    """What somebody said. The `type` may be left out."""

    type: Literal["message"] = absent()
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[
        Annotated[str, branch("string")] | Annotated[list[ContentPart], FIRST_FAULT, branch("array")],
        by_shape("one of a string or array of content parts"),
    ]
    status: ItemStatus = absent()


class UrlCitation(Open):
    """Where on the web a stretch of the text comes from."""

    type: Literal["url_citation"]
    start_index: int
    end_index: int
    title: str
    url: str


OtherAnnotationType = Literal["file_citation", "container_file_citation", "file_path"]


class OtherAnnotation(Open):
    """An annotation that OpenAI knows and the provider's schema does not list; passed through unread."""

    type: OtherAnnotationType


Annotation = Annotated[
    Annotated[UrlCitation, branch("url_citation")] | Annotated[OtherAnnotation, branch("other")],
    by_kind(
        ("url_citation", *get_args(OtherAnnotationType)),
        lambda value: "other" if value.get("type") in get_args(OtherAnnotationType) else value.get("type"),
    ),
]


class TopLogprob(Open):
    """A token that could have stood here, and how likely it was."""

    token: str
    logprob: float
    bytes: Annotated[list[int], FIRST_FAULT]


class Logprob(TopLogprob):
    """A token of the answer, how likely it was, and what else could have stood here."""

    top_logprobs: Annotated[list[TopLogprob], FIRST_FAULT]


class OutputText(Open):
    """Text that the model wrote."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[Annotation], FIRST_FAULT]
    logprobs: Annotated[list[Logprob], FIRST_FAULT] = absent()


class Refusal(Open):
    """The model's refusal to answer."""

    type: Literal["refusal"]
    refusal: str


class OutputMessage(Open):
    """An earlier answer of the model, as it came out of a response's `output`."""

    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: ItemStatus
    content: Annotated[
        list[
            Annotated[
                Annotated[OutputText, branch("output_text")] | Annotated[Refusal, branch("refusal")],
                by_kind(("output_text", "refusal")),
            ]
        ],
        FIRST_FAULT,
    ]


class WebSearchCall(Open):
    """A web search that the model made."""

    type: Literal["web_search_call"]
    id: str
    status: Literal["in_progress", "completed", "searching", "failed"]


class FunctionCall(Open):
    """The model's call of one of your functions; `arguments` is JSON as text."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str = absent()
    status: ItemStatus = absent()


class FunctionCallOutput(Open):
    """What your function answered."""

    type: Literal["function_call_output"]
    call_id: str
    output: str
    id: str | None = None
    status: ItemStatus | None = None


class SummaryText(Open):
    """A stretch of a summary of the model's reasoning."""

    type: Literal["summary_text"]
    text: str


class ReasoningItem(Open):
    """The model's reasoning, as it came out of a response's `output`."""

    type: Literal["reasoning"]
    id: str
    summary: Annotated[list[SummaryText], FIRST_FAULT]
    encrypted_content: str | None = None
    status: ItemStatus = absent()


class McpTool(Open):
    """A tool of an MCP server."""

    name: str
    input_schema: dict[str, Any]
    annotations: dict[str, Any] | None = None
    description: str | None = None


class McpListTools(Open):
    """The tools that an MCP server offered."""

    type: Literal["mcp_list_tools"]
    id: str
    server_label: str
    tools: Annotated[list[McpTool], FIRST_FAULT]
    error: str | None = None


class McpApprovalRequest(Open):
    """The model's question whether it may call an MCP tool."""

    type: Literal["mcp_approval_request"]
    id: str
    server_label: str
    name: str
    arguments: str


class McpApprovalResponse(Open):
    """Your answer to such a question."""

    type: Literal["mcp_approval_response"]
    approval_request_id: str
    approve: bool
    id: str | None = None
    reason: str | None = None


class McpCall(Open):
    """The model's call of an MCP tool."""

    type: Literal["mcp_call"]
    id: str
    server_label: str
    name: str
    arguments: str
    error: str | None = None
    output: str | None = None


class ItemReference(Open):
    """An item that the provider has stored, by its id. The `type` may be left out."""

    type: Literal["item_reference"] | None = None
    id: str


OtherItemType = Literal[
    "file_search_call",
    "computer_call",
    "computer_call_output",
    "tool_search_call",
    "tool_search_output",
    "additional_tools",
    "configuration_update",
    "compaction",
    "compaction_trigger",
    "image_generation_call",
    "code_interpreter_call",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "program",
    "program_output",
]


class OtherItem(Open):
    """An item that OpenAI knows and the provider's schema does not list; passed through unread."""

    type: OtherItemType


_CHECKED_TYPES: Final = (
    "message",
    "web_search_call",
    "function_call",
    "function_call_output",
    "reasoning",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "item_reference",
)
_OTHER_TYPES: Final = frozenset(get_args(OtherItemType))


def _item_form(item: dict[str, Any]) -> object:
    kind = item.get("type")
    if kind is None:
        if "role" in item or "content" in item:
            kind = "message"
        elif "id" in item:
            kind = "item_reference"
    if kind == "message" and _holds_output(item):
        return "output_message"
    return "other" if isinstance(kind, str) and kind in _OTHER_TYPES else kind


def _holds_output(message: dict[str, Any]) -> bool:
    content = message.get("content")
    return (
        message.get("role") == "assistant"
        and isinstance(content, list)
        and any(isinstance(part, dict) and part.get("type") in ("output_text", "refusal") for part in content)
    )


InputItem = Annotated[
    Annotated[Message, branch("message")]
    | Annotated[OutputMessage, branch("output_message")]
    | Annotated[WebSearchCall, branch("web_search_call")]
    | Annotated[FunctionCall, branch("function_call")]
    | Annotated[FunctionCallOutput, branch("function_call_output")]
    | Annotated[ReasoningItem, branch("reasoning")]
    | Annotated[McpListTools, branch("mcp_list_tools")]
    | Annotated[McpApprovalRequest, branch("mcp_approval_request")]
    | Annotated[McpApprovalResponse, branch("mcp_approval_response")]
    | Annotated[McpCall, branch("mcp_call")]
    | Annotated[ItemReference, branch("item_reference")]
    | Annotated[OtherItem, branch("other")],
    by_kind((*_CHECKED_TYPES, *get_args(OtherItemType)), _item_form),
]

Input = Annotated[
    Annotated[str, branch("string")] | Annotated[list[InputItem], FIRST_FAULT, branch("array")],
    by_shape("one of a string or array of input items"),
]
