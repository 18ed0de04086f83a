"""Credentials are found wherever a request may hold them, and nothing else of it changes."""

import json
from typing import Any

import pytest
from pydantic import SecretStr

from jobs.encryption import Cipher, generate_key
from jobs.tool_credentials import Credentials, hide

MCP = {"type": "mcp", "server_label": "mine", "server_url": "https://mcp.example"}
POLICY = {"type": "allowlist", "domain_secrets": [{"domain": "a.example", "name": "K", "value": "secret-1"}]}
SHOWN_POLICY = {"type": "allowlist", "domain_secrets": [{"domain": "a.example", "name": "K", "value": "***"}]}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "authorization": (
        {"tools": [MCP, {**MCP, "authorization": "secret-1"}]},
        {"tools": [MCP, {**MCP, "authorization": "***"}]},
        "tools[1].authorization",
    ),
    "headers": (
        {"tools": [{**MCP, "headers": {"a": "secret-1", "b": "secret-2"}}]},
        {"tools": [{**MCP, "headers": {"a": "***", "b": "***"}}]},
        "tools[0].headers.a",
    ),
    "of a type unknown, and in other shapes": (
        {"tools": [{"type": "new", "authorization": {"token": "secret-1"}, "headers": ["a: secret-2"]}]},
        {"tools": [{"type": "new", "authorization": "***", "headers": "***"}]},
        "tools[0].authorization",
    ),
    "in a namespace": (
        {"tools": [{"type": "namespace", "tools": [{**MCP, "authorization": "secret-1"}]}]},
        {"tools": [{"type": "namespace", "tools": [{**MCP, "authorization": "***"}]}]},
        "tools[0].tools[0].authorization",
    ),
    "in the choice": (
        {"tool_choice": {"type": "allowed_tools", "tools": [{**MCP, "authorization": "secret-1"}]}},
        {"tool_choice": {"type": "allowed_tools", "tools": [{**MCP, "authorization": "***"}]}},
        "tool_choice.tools[0].authorization",
    ),
    "in the input": (
        {"input": ["text", {"type": "tool_search_output", "tools": [{**MCP, "headers": {"a": "secret-1"}}]}]},
        {"input": ["text", {"type": "tool_search_output", "tools": [{**MCP, "headers": {"a": "***"}}]}]},
        "input[1].tools[0].headers.a",
    ),
    "in a URL": (
        {"tools": [{**MCP, "server_url": "https://me:secret-1@mcp.example/sse?a=b"}]},
        {"tools": [{**MCP, "server_url": "https://***@mcp.example/sse?a=b"}]},
        "tools[0].server_url",
    ),
    "of a container": (
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "network_policy": POLICY}}]},
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "network_policy": SHOWN_POLICY}}]},
        "tools[0].container.network_policy.domain_secrets[0].value",
    ),
    "of a shell": (
        {"tools": [{"type": "shell", "environment": {"type": "container_auto", "network_policy": POLICY}}]},
        {"tools": [{"type": "shell", "environment": {"type": "container_auto", "network_policy": SHOWN_POLICY}}]},
        "tools[0].environment.network_policy.domain_secrets[0].value",
    ),
}
HARMLESS: list[dict[str, Any]] = [
    {"input": "authorization: Bearer secret-1"},
    {"tools": [{"type": "function", "name": "f", "parameters": {"properties": {"authorization": {"type": "string"}}}}]},
    {"tools": [{**MCP, "authorization": None, "headers": None}]},
    {"tools": "none", "input": [{"type": "mcp_list_tools", "tools": [{"name": "f", "input_schema": {}}]}]},
    {"tools": [{**MCP, "server_url": "https://[not a url"}]},
]


@pytest.mark.parametrize("case", CASES)
def test_they_are_hidden_and_put_back(case: str) -> None:
    body, shown, place = CASES[case]
    before = json.dumps(body)
    cipher = Cipher([SecretStr(generate_key())])
    hidden, credentials = hide(body)
    assert (hidden, credentials.first_place) == (shown, place)
    encrypted = credentials.encrypted(cipher)
    assert "secret-" not in repr((encrypted, credentials))
    assert Credentials.opened(encrypted, cipher).put_back(hidden) == body
    assert json.dumps(body) == before


@pytest.mark.parametrize("body", HARMLESS)
def test_nothing_else_is_touched(body: dict[str, Any]) -> None:
    hidden, credentials = hide(body)
    assert hidden is body
    assert not credentials
