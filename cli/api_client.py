"""A client of the API for the commands: a method per verb, and failures as one line."""

import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx

from cli.errors import CommandFailed
from cli.server_address import Connection
from jobs.redacted_url import shown_url

TIMEOUT_SECONDS = 30.0
CREATE_ATTEMPTS = 3
ERRNO = re.compile(r"^\[Errno -?\d+\] ")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")

Json = dict[str, Any]
"""A JSON object as the server sent it."""


class Unreachable(CommandFailed):
    """The server did not answer, or is temporarily unable to. Trying again may help."""


class Client:
    """A connection to a server with an API key."""

    def __init__(self, connection: Connection) -> None:
        self.url = connection.url
        self._shown = shown_url(self.url)
        self._http = httpx.Client(
            headers={"authorization": f"Bearer {connection.key()}"},
            timeout=TIMEOUT_SECONDS,
            trust_env=urlsplit(self.url).hostname not in LOOPBACK_HOSTS,  # a proxy cannot reach this machine's loopback
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def create(self, body: Json) -> Json:
        """Submit a response. If its answer is lost, repeat it with the same idempotency key: it is billed once."""
        headers = {"idempotency-key": str(uuid4())}
        for attempts_left in reversed(range(CREATE_ATTEMPTS)):
            try:
                return self._call("POST", "/responses", headers=headers, json=body)
            except Unreachable as error:
                if attempts_left == 0 or isinstance(error.__cause__, httpx.ConnectError):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def retrieve(self, response_id: str, wait: float = 0) -> Json:
        """Return a response. The server holds its answer for up to `wait` seconds until the response has ended."""
        query = {"wait": f"{wait:g}"} if wait else {}
        return self._call("GET", f"/responses/{path_part(response_id)}", params=query, timeout=TIMEOUT_SECONDS + wait)

    def list(self, query: Mapping[str, str]) -> Json:
        """Return a page of responses, newest first."""
        return self._call("GET", "/responses", params=query)

    def cancel(self, response_id: str) -> Json:
        """Cancel a queued or running response."""
        return self._call("POST", f"/responses/{path_part(response_id)}/cancel")

    def retry(self, response_id: str) -> Json:
        """Run a failed or cancelled response again, under the same id."""
        return self._call("POST", f"/responses/{path_part(response_id)}/retry")

    def attempts(self, response_id: str, *, with_bodies: bool) -> Json:
        """Return the attempts of a response, of all pages in one list.

        `with_bodies` includes what a failed call received instead of an answer.
        """
        query = {"include": "body"} if with_bodies else {}
        path = f"/responses/{path_part(response_id)}/attempts"
        result = page = self._call("GET", path, params=query)
        while page.get("has_more"):
            page = self._call("GET", path, params={**query, "after": str(page["last_id"])})
            result = {**page, "data": result["data"] + page["data"], "first_id": result["first_id"]}
        return result

    def usage(self, start: int, end: int) -> Json:
        """Return the usage between two times in unix seconds."""
        return self._call("GET", "/usage", params={"start": str(start), "end": str(end)})

    def models(self) -> Sequence[str]:
        """Return the ids of the server's models, in its order."""
        return [str(model["id"]) for model in self._call("GET", "/models")["data"]]

    def get(self, path: str, query: Mapping[str, str]) -> Json:
        """Send a GET request."""
        return self._call("GET", path, params=query)

    def post(self, path: str, body: Json, *, slow: bool = False) -> Json:
        """Send a POST request. `slow` doubles the timeout, for requests in which the server itself waits."""
        return self._call("POST", path, json=body, timeout=2 * TIMEOUT_SECONDS if slow else TIMEOUT_SECONDS)

    def delete(self, path: str) -> Json:
        """Send a DELETE request."""
        return self._call("DELETE", path)

    def _call(self, method: str, path: str, **options: Any) -> Json:
        try:
            answer = self._http.request(method, self.url + path, **options)
        except httpx.ConnectError as error:
            raise Unreachable(
                f"Cannot reach {self._shown} ({_cause(error)}). Is it running? Start it with: make up"
            ) from error
        except httpx.TimeoutException as error:
            raise Unreachable(f"{self._shown} gave no answer in time") from error
        except httpx.TransportError as error:
            raise Unreachable(f"The connection to {self._shown} broke ({_cause(error)})") from error
        except (httpx.InvalidURL, UnicodeError, httpx.TooManyRedirects) as error:
            raise CommandFailed(f"BACKBURNER_BASE_URL: {self._shown}: {error}") from error
        return _read(answer, self._shown)


def _read(answer: httpx.Response, url: str) -> Json:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if answer.is_success and isinstance(body, dict):
        return body
    kind = Unreachable if answer.status_code in (429, 502, 503, 504) else CommandFailed
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict) and not answer.is_success:
        facts = [str(error.get("type") or answer.status_code)]
        if request_id := answer.headers.get("x-request-id"):
            facts.append(f"request {request_id}")
        raise kind(f"{error.get('message')} ({', '.join(facts)})")
    raise kind(f"{url} answered HTTP {answer.status_code}, but not as Backburner does: check BACKBURNER_BASE_URL")


def path_part(given: str) -> str:
    """Return `given` quoted as one segment of a path."""
    return quote(given, safe="")


def _cause(error: httpx.TransportError) -> str:
    return ERRNO.sub("", str(error)) or type(error).__name__
