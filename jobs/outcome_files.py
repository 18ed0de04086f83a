"""Files in the data folder for outcomes of calls that the database does not take yet.

Each file holds the outcome of one call that may have been billed, until it is recorded. So the call is not repeated if
the worker ends meanwhile, and the files left can be counted.
"""

from pathlib import Path
from typing import Final

FOLDER: Final = "unrecorded"
SUFFIX: Final = ".json"
ASIDE: Final = ".unknown"
"""Suffix of files that could not be recorded: the database does not know the call, or the file is not readable."""


def unrecorded_files(data_dir: Path) -> list[Path]:
    """Return the files that are not recorded yet, oldest call first."""
    return sorted((data_dir / FOLDER).glob(f"*{SUFFIX}"))


def files_put_aside(data_dir: Path) -> list[Path]:
    """Return the files that could not be recorded and are not tried again."""
    return sorted((data_dir / FOLDER).glob(f"*{ASIDE}"))
