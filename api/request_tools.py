"""The tools that a request offers to the model, and which of them it must use.

As with items: what the provider's schema lists is checked wholly, OpenAI's others are passed through unread.
"""

from typing import Annotated, Any, Final, Literal, get_args

from api.request_types import FIRST_FAULT, Open, absent, at_most, branch, by_kind, by_shape

# The schema bounds no map; this is far above any use.
MAP_ENTRIES: Final = 1000


class FunctionTool(Open):
    """One of your functions; `parameters` is the JSON Schema of its arguments."""

    type: Literal["function"]
    name: str
    parameters: dict[str, Any]
    strict: bool
    description: str = absent()


class UserLocation(Open):
    """Where the user is, roughly."""

    type: Literal["approximate"]
    city: str | None = None
    country: str | None = None
    region: str | None = None
    timezone: str | None = None


class WebSearchPreviewTool(Open):
    """Search on the web."""

    type: Literal["web_search_preview", "web_search_preview_2025_03_11"]
    search_context_size: Literal["low", "medium", "high"] = absent()
    user_location: UserLocation | None = None


class ToolNames(Open):
    """Some tools of an MCP server."""

    tool_names: Annotated[list[str], FIRST_FAULT] = absent()


class ApprovalRules(Open):
    """Which tools of an MCP server need your consent before each call."""

    always: ToolNames = absent()
    never: ToolNames = absent()


class McpServerTool(Open):
    """The tools of a remote MCP server."""

    type: Literal["mcp"]
    server_label: str
    server_url: str
    allowed_tools: (
        Annotated[
            Annotated[list[str], FIRST_FAULT, branch("array")] | Annotated[ToolNames, branch("object")],
            by_shape("one of an array of strings or object"),
        ]
        | None
    ) = None
    headers: Annotated[dict[str, str], at_most(MAP_ENTRIES)] | None = None
    require_approval: (
        Annotated[
            Annotated[Literal["always", "never"], branch("string")] | Annotated[ApprovalRules, branch("object")],
            by_shape("one of 'always', 'never', or object"),
        ]
        | None
    ) = None


OtherToolType = Literal[
    "file_search",
    "computer",
    "computer_use_preview",
    "web_search",
    "web_search_2025_08_26",
    "code_interpreter",
    "programmatic_tool_calling",
    "image_generation",
    "local_shell",
    "shell",
    "custom",
    "namespace",
    "tool_search",
    "apply_patch",
]


class OtherTool(Open):
    """A tool that OpenAI knows and the provider's schema does not list; passed through unread."""

    type: OtherToolType


def _tool_form(tool: dict[str, Any]) -> object:
    kind = tool.get("type")
    if kind == "web_search_preview_2025_03_11":
        return "web_search_preview"
    return "other" if kind in get_args(OtherToolType) else kind


Tool = Annotated[
    Annotated[FunctionTool, branch("function")]
    | Annotated[WebSearchPreviewTool, branch("web_search_preview")]
    | Annotated[McpServerTool, branch("mcp")]
    | Annotated[OtherTool, branch("other")],
    by_kind(
        ("function", "web_search_preview", "web_search_preview_2025_03_11", "mcp", *get_args(OtherToolType)),
        _tool_form,
    ),
]


class FunctionChoice(Open):
    """The model must call this function."""

    type: Literal["function"]
    name: str


# The provider lists the first five; the others are OpenAI's, whose further fields are passed through unread.
HostedChoiceType = Literal[
    "web_search_preview",
    "web_search_preview_2025_03_11",
    "computer_use_preview",
    "code_interpreter",
    "mcp",
    "file_search",
    "web_search",
    "computer",
    "computer_use",
    "image_generation",
    "allowed_tools",
    "custom",
    "programmatic_tool_calling",
    "apply_patch",
    "shell",
]


class HostedChoice(Open):
    """The model must use this tool."""

    type: HostedChoiceType


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], branch("string")]
    | Annotated[
        Annotated[FunctionChoice, branch("function")] | Annotated[HostedChoice, branch("hosted")],
        by_kind(
            ("function", *get_args(HostedChoiceType)),
            lambda choice: "hosted" if choice.get("type") in get_args(HostedChoiceType) else choice.get("type"),
        ),
        branch("object"),
    ],
    by_shape("one of 'none', 'auto', 'required', or object"),
]
