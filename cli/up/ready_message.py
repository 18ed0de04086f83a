"""The message that `up` prints when it is ready: its address, its key, and lines to copy."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.server_address import DEFAULT_DATA_DIR, DEFAULT_HOST, DEFAULT_PORT, KEY_FILE, base_url_of

PROMPT = "Why is the night sky dark?"


@dataclass(frozen=True)
class ReadyMessage:
    """The facts of a running `up`. `key_file` is None if the operator set the key in the environment."""

    base_url: str
    key_file: Path | None
    provider: str
    model: str
    data_dir: Path

    def facts(self) -> Sequence[tuple[str, str]]:
        """Return the address, key, provider and data directory, each with its name."""
        key = "in BACKBURNER_API_KEY" if self.key_file is None else f"in {_short(self.key_file)}"
        return (
            ("base URL", self.base_url),
            ("API key", key),
            ("provider", self.provider),
            ("data", _short(self.data_dir)),
        )

    def shell(self) -> Sequence[str]:
        """Return the lines that submit a prompt from another terminal, and set the variables that it needs."""
        lines = []
        if self.base_url != base_url_of(DEFAULT_HOST, DEFAULT_PORT):
            lines.append(f"export BACKBURNER_BASE_URL={shlex.quote(self.base_url)}")
        if self.key_file is not None and self.key_file != DEFAULT_DATA_DIR / KEY_FILE:
            lines.append(f"export BACKBURNER_API_KEY=$(cat {shlex.quote(_short(self.key_file))})")
        return [*lines, f'{_own_command()} submit --wait "{PROMPT}"']

    def python(self) -> Sequence[str]:
        """Return the lines that submit a prompt with OpenAI's SDK."""
        file = None if self.key_file is None else _short(self.key_file)
        key = 'os.environ["BACKBURNER_API_KEY"]' if file is None else f'open("{file}").read()'
        return (
            "import os; from openai import OpenAI" if file is None else "from openai import OpenAI",
            f'client = OpenAI(base_url="{self.base_url}", api_key={key})',
            f'job = client.responses.create(model="{self.model}", input="{PROMPT}", background=True)',
            'print(client.responses.retrieve(job.id, extra_query={"wait": 300}).output_text)',
        )


def _short(path: Path) -> str:
    """Return `path` relative to the working directory if it is below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _own_command() -> str:
    command = Path(sys.argv[0])
    if command.name != "backburner":
        return "backburner"
    found = shutil.which("backburner")
    return "backburner" if found and Path(found).samefile(command) else _short(command.absolute())
