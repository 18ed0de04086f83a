"""Small C libraries that are preloaded into a test's processes. The source is `NAME.c` beside this file."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler is installed: cc")


@cache
def library(name: str) -> Path:
    """Return the library, which is built at its first use."""
    built = Path(mkdtemp()) / f"{name}.so"
    built.parent.chmod(0o755)  # PostgreSQL runs as another user
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run([str(COMPILER), "-O1", "-shared", "-fPIC", "-o", str(built), str(source), "-ldl"], check=True)
    return built
