"""A host name whose addresses a test sets, by a library that is preloaded into processes."""

from pathlib import Path

from tests.support.preloaded import library

NAME = "provider.test"


class HostNames:
    """The addresses of `NAME` for processes that are started with `environment`."""

    def __init__(self, folder: Path) -> None:
        """The state is a file in `folder`. At first the name is not resolved."""
        self._file = folder / "host_names"
        self.lead_to()

    def lead_to(self, *addresses: str, after: float = 0.0) -> None:
        """Answer each look-up with the next address, `after` seconds later. Without addresses it fails."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{after:g} {' '.join(addresses)}\n")
        new.replace(self._file)  # atomic for concurrent readers

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of a process that looks up the name."""
        return {"LD_PRELOAD": str(library("host_names")), "HOST_NAMES": str(self._file), "HOST_NAMED": NAME}
