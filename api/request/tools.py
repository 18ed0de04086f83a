"""Tools that a request offers to the model, and the choice among them.

A function is checked as far as every provider needs it; tools of other kinds pass unchecked.
"""

from typing import Annotated, Any, Final, Literal

from api.request.base import FIRST_FAULT, Open, Unread, at_most, branch, by_kind, by_shape

# No schema limits these maps; this is far above any use.
MAP_ENTRIES: Final = 1000


class FunctionTool(Open):
    """One of your functions; `parameters` is the JSON Schema of its arguments."""

    type: Literal["function"]
    name: str
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class McpServerTool(Open):
    """The tools of a remote MCP server, by its URL or by a connector of the provider."""

    type: Literal["mcp"]
    server_label: str
    server_url: str | None = None
    connector_id: str | None = None
    authorization: str | None = None
    headers: Annotated[dict[str, str], at_most(MAP_ENTRIES)] | None = None


Tool = Annotated[
    Annotated[FunctionTool, branch("function")]
    | Annotated[McpServerTool, branch("mcp")]
    | Annotated[Unread, branch("other")],
    by_kind(("function", "mcp")),
]


class FunctionChoice(Open):
    """The model must call this function."""

    type: Literal["function"]
    name: str


class AllowedTools(Open):
    """Tools that the model may use, or of which it must use one."""

    type: Literal["allowed_tools"]
    mode: str | None = None
    tools: Annotated[list[dict[str, Any]], FIRST_FAULT] | None = None


ToolChoice = Annotated[
    Annotated[str, branch("string")]
    | Annotated[
        Annotated[FunctionChoice, branch("function")]
        | Annotated[AllowedTools, branch("allowed_tools")]
        | Annotated[Unread, branch("other")],
        by_kind(("function", "allowed_tools")),
        branch("object"),
    ],
    by_shape("one of 'none', 'auto', 'required', or object"),
]
