"""What is drawn from code is what stands in the tree."""

from pathlib import Path

import pytest

from docs.generate import GENERATED


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Path) -> None:
    assert path.read_text("utf-8") == GENERATED[path](), "run: make docs"
