"""Where a worker leaves what calls came to while the database does not take it: files in the data folder.

Each holds what one call that may have been paid for has brought; it is there until that is recorded. So nothing that
ends the worker meanwhile makes the call be bought again, and who has ended it can tell how many are left.
"""

from pathlib import Path
from typing import Final

FOLDER: Final = "unrecorded"
SUFFIX: Final = ".json"
ASIDE: Final = ".unknown"
"""Of those that could not be recorded: the database did not know the call, or they could not be read."""


def unrecorded_files(data_dir: Path) -> list[Path]:
    """The files that are yet to be recorded, oldest call first."""
    return sorted((data_dir / FOLDER).glob(f"*{SUFFIX}"))


def files_put_aside(data_dir: Path) -> list[Path]:
    """The files that could not be recorded, which nobody waits for."""
    return sorted((data_dir / FOLDER).glob(f"*{ASIDE}"))
