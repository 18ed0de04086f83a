"""Credentials inside a request, for a tenant's own MCP servers and for the hosts that its containers may reach.

A row holds `***` in their place, so that no reader can show them. They are stored beside it, encrypted, each with its
place. Only the worker puts them back, for the call.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from jobs.encryption import Cipher
from jobs.errors import Failure
from jobs.job import Answer, CallReport

MASK: Final = "***"
SHORTEST: Final = 8
"""Characters. A shorter text is not a secret, and would match inside words."""
_SAY_WHAT_IT_IS: Final = frozenset({"id", "object", "role", "status", "type"})

Place = tuple[str | int, ...]
Json = dict[str, Any]


@dataclass(frozen=True)
class Credentials:
    """Credentials, each with its place in a request."""

    found: Sequence[tuple[Place, Any]] = field(default=(), repr=False)

    def __bool__(self) -> bool:
        return bool(self.found)

    @property
    def first_place(self) -> str:
        """Path to the first one, in OpenAI's notation."""
        first, *rest = self.found[0][0]
        return str(first) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest)

    def encrypted(self, cipher: Cipher) -> str:
        """Return them in the form for a row.

        Raises:
            DecryptionError: there is no key.
        """
        return cipher.encrypt(json.dumps(self.found, separators=(",", ":")))

    @classmethod
    def opened(cls, encrypted: str | None, cipher: Cipher) -> "Credentials":
        """Return the credentials of a row, if any.

        Raises:
            DecryptionError: they cannot be decrypted with the current keys.
        """
        if encrypted is None:
            return cls()
        return cls([(tuple(place), value) for place, value in json.loads(cipher.decrypt(encrypted))])

    def put_back(self, body: Json) -> Json:
        """Return `body` as it was before `hide`."""
        return _with(body, self.found)

    def put_back_into_input(self, input_: Any) -> Any:
        """Return the input as it was before `hide`, for a request whose settings are no longer needed."""
        return _with({"input": input_}, [(place, value) for place, value in self.found if place[0] == "input"])["input"]

    def withheld_from(self, report: CallReport) -> CallReport:
        """Return the report of a call without credentials that the provider may have repeated."""
        if not self:
            return report
        result: Answer | Failure = report.result
        if isinstance(result, Answer):
            result = replace(result, response=self._withheld(hide(dict(result.response))[0]))
        else:
            result = replace(result, message=self._covered(result.message))
        failed = report.failed_response
        return replace(
            report,
            result=result,
            raw=None if report.raw is None else self._withheld_from_bytes(report.raw),
            failed_response=None if failed is None else self._withheld(hide(dict(failed))[0]),
        )

    def withheld_from_event(self, event: Json) -> Json:
        """Return an event of a stream without them."""
        withheld: Json = self._withheld(event)
        return withheld

    def _withheld_from_bytes(self, data: bytes) -> bytes:
        """Return JSON, or broken JSON, without them."""
        for word in self._words():
            for written in (word, json.dumps(word)[1:-1], json.dumps(word, ensure_ascii=False)[1:-1]):
                data = data.replace(written.encode("utf-8", "surrogatepass"), MASK.encode())
        return data

    def _withheld(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._covered(value)
        if isinstance(value, list):
            return [self._withheld(each) for each in value]
        if isinstance(value, Mapping):
            return {name: each if name in _SAY_WHAT_IT_IS else self._withheld(each) for name, each in value.items()}
        return value

    def _covered(self, text: str) -> str:
        for word in self._words():
            text = text.replace(word, MASK)
        return text

    def _words(self) -> list[str]:
        """Return the texts to mask, longest first, and each word of them, such as `abc` of `Bearer abc`."""
        texts = {text for _, value in self.found for text in _texts(value)}
        words = texts | {word for text in texts for word in text.split()}
        return sorted((word for word in words if len(word) >= SHORTEST), key=len, reverse=True)


def hide(body: Json) -> tuple[Json, Credentials]:
    """Return a request, or the response that repeats it, with `***` for each credential, and the credentials.

    `body` itself is unchanged.
    """
    found = list(_in_body(body))
    if not found:
        return body, Credentials()
    masked = [(place, _shown(place, value)) for place, value in found]
    return _with(body, masked), Credentials(found)


def hide_in_tools(tools: list[Any]) -> list[Any]:
    """Return a list of tools with `***` for each credential."""
    shown: list[Any] = hide({"tools": tools})[0]["tools"]
    return shown


def _in_body(body: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
    yield from _in_tools(body.get("tools"), ("tools",))
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping):
        yield from _in_tools(choice.get("tools"), ("tool_choice", "tools"))
        yield from _in_tool(choice, ("tool_choice",))
    for name in ("input", "output"):  # a tool search, for example, ends with an item that holds tools
        items = body.get(name)
        for number, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, Mapping) and "tools" in item:
                yield from _in_tools(item["tools"], (name, number, "tools"))


def _in_tools(tools: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    for number, tool in enumerate(tools if isinstance(tools, list) else ()):
        if isinstance(tool, Mapping):
            yield from _in_tool(tool, (*place, number))
            yield from _in_tools(tool.get("tools"), (*place, number, "tools"))  # of a namespace


def _in_tool(tool: Mapping[str, Any], place: Place) -> Iterator[tuple[Place, Any]]:
    if tool.get("authorization") is not None:
        yield (*place, "authorization"), tool["authorization"]
    headers = tool.get("headers")
    if isinstance(headers, Mapping):
        yield from (((*place, "headers", name), value) for name, value in headers.items() if value is not None)
    elif headers is not None:
        yield (*place, "headers"), headers
    url = tool.get("server_url")
    if isinstance(url, str) and _without_userinfo(url) != url:
        yield (*place, "server_url"), url
    for container in ("container", "environment"):
        policy = _member(_member(tool, container), "network_policy")
        secrets = policy.get("domain_secrets")
        for number, secret in enumerate(secrets if isinstance(secrets, list) else ()):
            if isinstance(secret, Mapping) and secret.get("value") is not None:
                yield (*place, container, "network_policy", "domain_secrets", number, "value"), secret["value"]


def _member(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _shown(place: Place, value: Any) -> str:
    return _without_userinfo(value) if place[-1] == "server_url" else MASK


def _without_userinfo(url: str) -> str:
    try:
        userinfo, at, _ = urlsplit(url).netloc.rpartition("@")
    except ValueError:  # no URL; whoever connects to it finds that out
        return url
    return url.replace(f"{userinfo}@", f"{MASK}@", 1) if at else url


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Mapping):
        return (text for each in value.values() for text in _texts(each))
    if isinstance(value, list):
        return (text for each in value for text in _texts(each))
    return ()


def _with(body: Json, values: Iterable[tuple[Place, Any]]) -> Json:
    """`body` with these values at their places, of which all that is changed is copied first."""
    changed: Json = dict(body)
    copied: dict[Place, Any] = {(): changed}
    for place, value in values:
        for length in range(1, len(place)):
            if place[:length] not in copied:
                holder, step = copied[place[: length - 1]], place[length - 1]
                holder[step] = copied[place[:length]] = _copy(holder[step])
        copied[place[:-1]][place[-1]] = value
    return changed


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)
