"""Which URLs and addresses webhooks may go to."""

from ipaddress import ip_address, ip_network

import pytest

from jobs.webhooks.url_policy import (
    Destination,
    DestinationPolicy,
    DestinationRefused,
    embedded,
    is_public,
    parse_destination,
)
from tests.webhooks import hostile

POLICY = DestinationPolicy()


def check(url: str, policy: DestinationPolicy = POLICY, resolved: list[str] | None = None) -> Destination:
    receiver = parse_destination(url)
    policy.check_url(receiver)
    if resolved is not None:
        policy.check_addresses(receiver, [ip_address(each) for each in resolved])
    return receiver


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("https://example.com", "https://example.com:443", "/"),
        ("https://EXAMPLE.com:8443/hook?a=b&c=%20d#part", "https://example.com:8443", "/hook?a=b&c=%20d"),
        ("https://xn--bcher-kva.example/ü", "https://xn--bcher-kva.example:443", "/%C3%BC"),
        ("https://93.184.215.14/", "https://93.184.215.14:443", "/"),
        ("https://[2606:2800:21F:CB07::1]/", "https://[2606:2800:21f:cb07::1]:443", "/"),
        ("https://under_score.example.com.", "https://under_score.example.com.:443", "/"),
    ],
)
def test_a_plain_url_is_taken_apart(url: str, origin: str, target: str) -> None:
    receiver = check(url)
    assert (receiver.origin, receiver.target) == (origin, target)


@pytest.mark.parametrize("address", hostile.BY_ADDRESS)
def test_an_address_that_is_not_public_is_refused_before_anything_is_sent(address: str) -> None:
    with pytest.raises(DestinationRefused, match="public"):
        check(hostile.url_of(address))
    with pytest.raises(DestinationRefused, match="public"):
        check("https://example.com/", resolved=[hostile.PUBLIC, address])


@pytest.mark.parametrize("url", hostile.BY_SPELLING)
def test_a_spelling_that_others_may_read_otherwise_is_refused(url: str) -> None:
    with pytest.raises(DestinationRefused):
        check(url)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001::200e"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ip_address(address))
    check(hostile.url_of(address))


@pytest.mark.parametrize("url", ["https://example.com:22/", "https://example.com:80/", "https://example.com:65535/"])
def test_odd_ports_are_refused(url: str) -> None:
    with pytest.raises(DestinationRefused, match="port"):
        check(url)


def test_plain_http_is_the_operators_to_allow() -> None:
    with pytest.raises(DestinationRefused, match="https"):
        check("http://example.com/")
    allowing = DestinationPolicy(allow_http=True)
    assert check("http://example.com/", allowing).port == 80
    with pytest.raises(DestinationRefused, match="public"):
        check("http://127.0.0.1/", allowing)


def test_networks_are_the_operators_to_open_on_any_port() -> None:
    opened = DestinationPolicy(networks=[ip_network("127.0.0.0/8"), ip_network("fd00::/8")])
    check("https://127.0.0.1:9000/", opened)
    check("https://[fd00::1]:9000/", opened)
    check("https://internal.example.com:9000/", opened, ["127.0.0.1", "fd00::1"])
    with pytest.raises(DestinationRefused, match="port"):
        check("https://example.com:9000/", opened, [hostile.PUBLIC])
    with pytest.raises(DestinationRefused, match="public"):
        check("https://internal.example.com/", opened, ["127.0.0.1", "10.0.0.1"])


def test_an_open_network_does_not_open_what_hides_in_it() -> None:
    nat64 = DestinationPolicy(networks=[ip_network("64:ff9b::/96")])
    check("https://example.com/", nat64, ["64:ff9b::5db8:d70e"])
    with pytest.raises(DestinationRefused, match="public"):
        check("https://example.com/", nat64, ["64:ff9b::7f00:1"])
    with pytest.raises(DestinationRefused, match="public"):
        check("https://[::ffff:127.0.0.1]/", DestinationPolicy(networks=[ip_network("127.0.0.0/8")]))


@pytest.mark.parametrize(
    ("address", "inside"),
    [("::ffff:1.2.3.4", "1.2.3.4"), ("2002:102:304::", "1.2.3.4"), ("64:ff9b::1.2.3.4", "1.2.3.4"), ("::1", None)],
)
def test_embedded(address: str, inside: str | None) -> None:
    assert embedded(ip_address(address)) == (None if inside is None else ip_address(inside))
