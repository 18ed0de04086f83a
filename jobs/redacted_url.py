"""URLs for people to read, in a terminal, a log or an error, without secrets."""

from urllib.parse import urlsplit


def shown_url(url: str) -> str:
    """Return `url` without user name, password, query and fragment, each of which may hold a secret."""
    try:
        parts = urlsplit(url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    except ValueError:
        return "a URL that cannot be read"
