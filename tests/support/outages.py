"""The ways in which a provider goes away and comes back, and the stack whose provider does."""

from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import httpx

from tests.support.certificates import DAY, Authority
from tests.support.gate import Gate
from tests.support.host_names import NAME, HostNames
from tests.support.stack import Process, Stack
from tests.support.tls_proxy import TlsLine

NOBODY_THERE = "127.0.0.2"
"""Connections are refused there, as servers for tests listen at 127.0.0.1 alone."""


class Outage(ABC):
    """One way: it stands before a provider that is there, takes it away with `begin` and brings it back with `end`."""

    def __init__(self, provider_url: str, folder: Path) -> None:
        """Change nothing yet; `folder` is for files of its own."""
        self.provider_url = provider_url
        self.folder = folder

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Of the processes that call the provider."""

    @abstractmethod
    def begin(self) -> None:
        """Take it away."""

    @abstractmethod
    def end(self) -> None:
        """Bring it back."""

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Free what it holds."""

    @property
    def knocks(self) -> int | None:
        """How many connections came to it, those that were turned away among them; None where nobody can count them."""
        return None


class Refused(Outage):
    """Nobody listens any more, so that connections are refused."""

    def __init__(self, provider_url: str, folder: Path) -> None:
        super().__init__(provider_url, folder)
        self.gate = Gate(provider_url)
        self.gate.open()

    @property
    def environment(self) -> dict[str, str]:
        return {"BACKBURNER_PROVIDER_BASE_URL": f"{self.gate.url}/v1"}

    def begin(self) -> None:
        self.gate.shut()

    def end(self) -> None:
        self.gate.open()

    def close(self) -> None:
        self.gate.__exit__(None, None, None)


class _Answers(Outage):
    status: ClassVar[str]

    @property
    def environment(self) -> dict[str, str]:
        return {}

    def begin(self) -> None:
        self._tell(self.status)

    def end(self) -> None:
        self._tell("full")

    def _tell(self, script: str) -> None:
        httpx.put(f"{self.provider_url}/_script", json={"script": script}).raise_for_status()

    @property
    def knocks(self) -> int:
        """Of the newest calls, all of them in a test."""
        calls: list[object] = httpx.get(f"{self.provider_url}/_calls").json()["calls"]
        return len(calls)


class Unavailable(_Answers):
    """Every call is answered 503."""

    status = "503"


class Overloaded(_Answers):
    """Every call is answered 529."""

    status = "529"


class Limited(_Answers):
    """Every call is answered 429."""

    status = "429"


class Nameless(Outage):
    """The provider's name is not resolved."""

    def __init__(self, provider_url: str, folder: Path) -> None:
        super().__init__(provider_url, folder)
        self.names = HostNames(folder)
        self.end()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "BACKBURNER_PROVIDER_BASE_URL": f"http://{NAME}:{urlsplit(self.provider_url).port}/v1",
            **self.names.environment,
        }

    def begin(self) -> None:
        self.names.lead_to()

    def end(self) -> None:
        self.names.lead_to("127.0.0.1")


class HalfRefused(Nameless):
    """The name leads to two hosts by turns, and one of them is down."""

    def begin(self) -> None:
        self.names.lead_to("127.0.0.1", NOBODY_THERE)


class Expired(Outage):
    """The provider's certificate has expired."""

    def __init__(self, provider_url: str, folder: Path) -> None:
        super().__init__(provider_url, folder)
        self._authority = Authority(folder)
        now = datetime.now(UTC)
        self._expired = self._authority.sign("expired", now - DAY)
        self._renewed = self._authority.sign("renewed", now + DAY)
        port = urlsplit(provider_url).port
        assert port is not None
        self.line = TlsLine(port, self._renewed).__enter__()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "BACKBURNER_PROVIDER_BASE_URL": f"https://127.0.0.1:{self.line.port}/v1",
            "SSL_CERT_FILE": str(self._authority.file),
        }

    def begin(self) -> None:
        self.line.present(self._expired)

    def end(self) -> None:
        self.line.present(self._renewed)

    def close(self) -> None:
        self.line.__exit__(None, None, None)

    @property
    def knocks(self) -> int:
        return self.line.came


class OutageStack(Stack):
    """A stack whose provider goes away in one way; set `way` before it is entered."""

    way: type[Outage]
    outage: Outage

    def _start(self, name: str, arguments: list[str]) -> Process:
        if name != "simulator" and not hasattr(self, "outage"):
            self.outage = self.way(self.provider_url, self.data_dir)
            self.environment = {**self.outage.environment, **self.environment}
        return super()._start(name, arguments)

    def __exit__(self, *exception: object) -> None:
        try:
            super().__exit__(*exception)  # type: ignore[arg-type]
        finally:
            if hasattr(self, "outage"):
                self.outage.close()
