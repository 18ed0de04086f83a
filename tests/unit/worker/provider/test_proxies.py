"""The proxy for the provider, by the environment."""

import httpx
import pytest

from jobs.errors import SettingsError
from worker.provider.proxies import proxy_for

PROXY = "http://user:hush@proxy:3128"
TLS = httpx.create_ssl_context()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the machine's proxy variables."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def is_direct(url: str) -> bool:
    return proxy_for(httpx.URL(url), TLS) is None


@pytest.mark.parametrize(
    ("no_proxy", "url", "expected"),
    [
        ("*", "https://api.example.com/v1", True),
        (" a.example , * ", "https://[::1]/v1", True),
        ("", "https://api.example.com/v1", False),
        ("::1", "https://[::1]:8443/v1", True),
        ("[::1]", "https://[::1]:8443/v1", True),
        ("[::1]:8443", "https://[::1]:8443/v1", True),
        ("[::1]:1", "https://[::1]:8443/v1", False),
        ("[::1]:443", "https://[::1]/v1", True),
        ("0:0:0:0:0:0:0:1", "https://[::1]/v1", True),
        ("fd00::/8", "https://[fd12::5]/v1", True),
        ("[fd00::]/8", "https://[fd12::5]/v1", True),
        ("fd00::/8", "https://[fe80::5]/v1", False),
        ("fd00::/8", "https://10.0.0.1/v1", False),
        ("10.0.0.0/8", "https://10.1.2.3/v1", True),
        ("10.0.0.0/8", "https://11.1.2.3/v1", False),
        ("10.0.0.1", "https://10.0.0.1/v1", True),
        ("10.0.0.1:8443", "https://10.0.0.1/v1", False),
        ("10.0.0.0/8", "https://ten.example/v1", False),
        ("example.com", "https://api.Example.com/v1", True),
        ("EXAMPLE.com", "https://example.com/v1", True),
        ("example.com", "https://badexample.com/v1", False),
        (".example.com", "https://api.example.com/v1", True),
        (".example.com", "https://example.com/v1", False),
        ("*.example.com", "https://api.example.com/v1", True),
        ("api.example.com:443", "https://api.example.com/v1", True),
        ("http://api.example.com", "https://api.example.com/v1", False),
        ("https://api.example.com", "https://api.example.com/v1", True),
        ("localhost,127.0.0.1", "https://localhost/v1", True),
    ],
)
def test_exceptions(no_proxy: str, url: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", PROXY)
    monkeypatch.setenv("no_proxy", no_proxy)
    assert is_direct(url) is expected


def test_the_schemes_variable_takes_precedence_over_all_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", PROXY)
    assert is_direct("http://h")
    monkeypatch.setenv("all_proxy", "socks5://other")
    found = proxy_for(httpx.URL("https://h"), TLS)
    assert found is not None
    assert (found.url.host, found.raw_auth) == ("proxy", (b"user", b"hush"))
    with pytest.raises(SettingsError, match="cannot be used") as emitted:
        proxy_for(httpx.URL("http://h"), TLS)
    monkeypatch.setenv("no_proxy", "h")
    assert is_direct("http://h")
    assert "hush" not in str(emitted.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("https_proxy", each)
            for each in ("socks5://h:1", "socks4://h", "ftp://h", "http://", "http://[::1", "h:port")
        ),
        *(("no_proxy", each) for each in ("[::1", "[::1]x", "[::1]:x")),
    ],
)
def test_an_unusable_value_is_one_clear_line(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="NO_PROXY cannot be used; proxies are http:// or https://"):
        proxy_for(httpx.URL("https://[::1]"), TLS)
