"""The clients: where each is installed, and how its scenarios are run.

A client of Python lies under `.venv/clients`, out of its own lock, and runs without the packages of this environment;
those of Node share one `package-lock.json`.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.stack import ROOT

NODE_DIR = ROOT / "tests/clients/node"
PYTHON_CLIENTS = ROOT / ".venv/clients"
SECONDS = 240


@dataclass(frozen=True)
class Client:
    """`title` is the client's name among people; `smoke` the scenario that `make test` plays, if it has the client."""

    name: str
    title: str
    smoke: str | None = "tool_loop"
    language: str = "python"

    @property
    def command(self) -> list[str]:
        if self.language == "node":
            node = Path(sys.executable).with_name("node")
            return [str(node), str(NODE_DIR / "main.mjs"), self.name]
        return [sys.executable, "-S", "-m", "tests.clients.python", self.name.replace("-", "_")]

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment of a client: paths, and all telemetry switched off."""
        return {
            "PYTHONPATH": os.pathsep.join([str(PYTHON_CLIENTS / self.name), str(ROOT)]),
            "AGNO_TELEMETRY": "false",
            "HAYSTACK_TELEMETRY_ENABLED": "false",
            "LITELLM_LOCAL_MODEL_COST_MAP": "true",
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
            "NO_PROXY": "127.0.0.1",
        }


CLIENTS = (
    Client("langchain", "LangChain and LangGraph"),
    Client("openai-agents", "OpenAI Agents SDK"),
    Client("pydantic-ai", "Pydantic AI"),
    Client("llama-index", "LlamaIndex"),
    Client("litellm", "LiteLLM SDK"),
    Client("instructor", "Instructor", smoke="structured"),
    Client("haystack", "Haystack"),
    Client("dspy", "DSPy", smoke="predict"),
    Client("llm", "llm"),
    Client("strands", "Strands Agents"),
    Client("agno", "Agno"),
    Client("semantic-kernel", "Semantic Kernel"),
    Client("agent-framework", "Microsoft Agent Framework"),
    Client("autogen", "AutoGen", smoke="text"),
    Client("ai-sdk", "Vercel AI SDK", language="node"),
    Client("langchain-js", "LangChain.js", language="node"),
    Client("agents-js", "OpenAI Agents SDK for JavaScript", language="node"),
    # larger than all others together, and so not installed for `make test`
    Client("codex", "Codex", smoke=None, language="node"),
)


@dataclass(frozen=True)
class Result:
    """End of one scenario in one world."""

    passed: bool
    error: str | None
    seconds: float


@dataclass
class Run:
    """Output of one client, world by world."""

    client: Client
    versions: dict[str, str] = field(default_factory=dict)
    scenarios: list[str] = field(default_factory=list)
    results: dict[str, dict[str, Result]] = field(default_factory=dict)
    errors: str = ""

    def play(self, worlds: Mapping[str, Mapping[str, Any]], scenarios: Iterable[str] = ()) -> None:
        """Run the client's program to its end; what it printed by then is kept."""
        self.results = {world: {} for world in worlds}
        with tempfile.TemporaryFile("w+") as errors, self._start(errors) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            deadline = threading.Timer(SECONDS + 10, process.kill)
            deadline.start()
            with suppress(BrokenPipeError):
                process.stdin.write(
                    json.dumps({"worlds": worlds, "scenarios": list(scenarios), "seconds": SECONDS}) + "\n"
                )
                process.stdin.close()
            for line in process.stdout:
                self._read(json.loads(line))
            process.wait()
            deadline.cancel()
            errors.seek(0)
            self.errors = errors.read()[-20000:]

    def _start(self, errors: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.client.command,
            cwd=ROOT,
            env={**os.environ, **self.client.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    def _read(self, reported: dict[str, Any]) -> None:
        if "versions" in reported:
            self.versions, self.scenarios = reported["versions"], reported["scenarios"]
        else:
            result = Result(reported["ok"], reported["error"], reported["seconds"])
            self.results[reported["world"]][reported["scenario"]] = result
