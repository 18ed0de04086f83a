"""URLs that would reach a private address, and the answers of a nameserver for their hosts."""

from ipaddress import ip_address

from jobs.webhooks.url_policy import Address

BAIT = "127.0.0.1"
PUBLIC = "93.184.215.14"

# Used with https on a usual port, so that only the address is a reason to refuse them.
BY_ADDRESS = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "100.64.0.1",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b:1::127.0.0.1",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "100::1",
]

# Read by other parsers as 127.0.0.1, or as another host than the one that is checked.
BY_SPELLING = [
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://127.0.1/",
    "https://127.0.0.1./",
    "https://127.0.0.0x1/",
    "https://\uff11\uff12\uff17.0.0.1/",
    "https://127\u30020\u30020\u30021/",
    "https://loc\u0430lhost/",
    "https://[::1%25lo]/",
    "https://[::ffff:7f00:1]/",
    "https://user@127.0.0.1/",
    "https://example.com@127.0.0.1/",
    "https://example.com:443@127.0.0.1/",
    "https://127.0.0.1\\@example.com/",
    "https://example.com\\@127.0.0.1/",
    "https://127.0.0.1#@example.com/",
    "https://127.0.0.1?@example.com/",
    "https:///127.0.0.1/",
    "https:127.0.0.1/",
    "//127.0.0.1/",
    "https://127.0.0.1\t/",
    "https://127.0.0.1\r\nHost: example.com/",
    "file:///etc/passwd",
    "gopher://127.0.0.1/",
    "ftp://127.0.0.1/",
    "unix:///var/run/docker.sock",
    "HTTPS+unix://127.0.0.1/",
]

# Names and their addresses.
BY_NAME: dict[str, list[str]] = {
    "localhost": [BAIT],
    "localhost.": [BAIT, "::1"],
    "bait.example.com": [BAIT],
    "mixed.example.com": [PUBLIC, BAIT],
    "mixed-6.example.com": [PUBLIC, "::1"],
    "mapped.example.com": ["::ffff:127.0.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "127.0.0.1.nip.io": [BAIT],
    "nat64.example.com": ["64:ff9b::7f00:1"],
}


def url_of(address: str) -> str:
    return f"https://[{address}]/" if ":" in address else f"https://{address}/"


def addresses(host: str) -> list[Address]:
    return [ip_address(each) for each in BY_NAME[host]]
