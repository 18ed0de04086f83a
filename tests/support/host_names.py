"""A name that is resolved as a test says, by a library that is preloaded into its processes."""

from pathlib import Path

from tests.support.preloaded import library

NAME = "provider.test"


class HostNames:
    """Processes that are started with `environment` find `NAME` where the last `lead_to` said."""

    def __init__(self, folder: Path) -> None:
        """In a file of `folder`; not resolved at first."""
        self._file = folder / "host_names"
        self.lead_to()

    def lead_to(self, *addresses: str, after: float = 0.0) -> None:
        """Each look-up gets the next of these after so many seconds; none means that the name is not resolved."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{after:g} {' '.join(addresses)}\n")
        new.replace(self._file)  # whoever reads it meanwhile reads all or nothing of it

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that asks for the name."""
        return {"LD_PRELOAD": str(library("host_names")), "HOST_NAMES": str(self._file), "HOST_NAMED": NAME}
