"""The provider's client: sends each call by the transport that the operator chose."""

import ssl
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from time import monotonic
from types import MappingProxyType
from typing import Any, Final

from gevent import get_hub
from pydantic import SecretStr

from jobs.clock import host_now
from jobs.event_stream import OnEvents
from jobs.job import CallReport
from jobs.model_catalog import Model
from jobs.settings import Dialect, Transport
from worker.provider.background import call_background, cancel_background, delete_background, resume_background
from worker.provider.call_handle import CallHandle
from worker.provider.http_exchange import JSON, MAX_ANSWER_BYTES, ResponsesApi
from worker.provider.plain import call_plain
from worker.provider.reasoning import EncryptedReasoning, with_encrypted_reasoning
from worker.provider.request_dialect import in_dialect, is_accepted
from worker.provider.stream import EVENT_STREAM, call_stream

STALL: Final = timedelta(seconds=300)
TRANSPORT_FIELDS: Final[Mapping[Transport, tuple[Mapping[str, bool], str]]] = MappingProxyType(
    {
        Transport.PLAIN: ({"stream": False}, JSON),
        Transport.STREAM: ({"stream": True}, f"{EVENT_STREAM}, {JSON}"),
        Transport.BACKGROUND: ({"stream": False, "background": True, "store": True}, JSON),
    }
)
"""Fields of a request that choose its transport, and the media types that it accepts."""
MANY_ITEMS: Final = 2_000
"""Longer inputs are converted in a native thread: it may take seconds, in which the greenlets must go on."""


class ProviderClient:
    """Sends calls to one provider. Safe to use from any number of threads or greenlets."""

    def __init__(
        self,
        base_url: str,
        api_key: SecretStr | None,
        *,
        transport: Transport = Transport.PLAIN,
        dialect: Dialect = Dialect.STRICT,
        stall: timedelta = STALL,
        tls: ssl.SSLContext | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        clock: Callable[[], datetime] = host_now,
    ) -> None:
        """Prepare calls to `POST {base_url}/responses`. A streamed text that pauses for `stall` has stalled.

        Raises:
            SettingsError: the URL, the key or the proxy cannot be used.
        """
        self._api = ResponsesApi(base_url, api_key, tls=tls, max_answer_bytes=max_answer_bytes, clock=clock)
        self._transport = transport
        self._dialect = dialect
        self._stall = stall.total_seconds()
        self._reasoning = EncryptedReasoning()

    def call(
        self,
        body: dict[str, Any],
        *,
        request_id: str,
        model: Model,
        deadline: timedelta,
        handle: CallHandle,
        accepted: Callable[[str], None],
        on_events: OnEvents | None = None,
        emitted: Collection[str] = (),
    ) -> CallReport:
        """Send one request and wait for an answer, a failure, `deadline`, or an abort through `handle`.

        `body` is emptied: a prompt may be large and the wait is long, so nothing may hold it meanwhile.

        Every error of the provider and the network is returned as a report. An answer that was received whole is
        reported even if the call was aborted meanwhile. `accepted` is called with the id by which a response can be
        resumed, as soon as it is known. `on_events` is called with the canonical events of a stream; no item in them
        has an identity among `emitted`, which are those of earlier attempts.
        """
        seconds = deadline.total_seconds()
        ends_at = monotonic() + seconds
        fields, accept = TRANSPORT_FIELDS[self._transport]
        unstored = body.get("store") is False
        adds = self._reasoning.is_added_to(body, model)
        request = self._api.call(
            {**self._in_dialect(with_encrypted_reasoning(body) if adds else body), **fields},
            request_id=request_id,
            seconds=seconds,
            handle=handle,
            accept=accept,
        )
        body.clear()
        try:
            match self._transport:
                case Transport.PLAIN:
                    report = call_plain(self._api, request, model, ends_at, handle)
                case Transport.STREAM:
                    report = call_stream(
                        self._api,
                        request,
                        model,
                        ends_at,
                        handle,
                        stall=self._stall,
                        on_events=on_events,
                        emitted=emitted,
                    )
                case Transport.BACKGROUND:
                    report = call_background(
                        self._api, request, model, ends_at, handle, accepted=accepted, unstored=unstored
                    )
        finally:
            handle.end()
        return self._reasoning.check_report(report, model) if adds else report

    def _in_dialect(self, body: dict[str, Any]) -> dict[str, Any]:
        input_ = body.get("input")
        if isinstance(input_, list) and len(input_) > MANY_ITEMS:
            formed: dict[str, Any] = get_hub().threadpool.apply(in_dialect, (body, self._dialect))
            return formed
        return in_dialect(body, self._dialect)

    def accepts_item(self, item: Mapping[str, Any]) -> bool:
        """Return whether an item of an earlier answer may be sent in a later request."""
        return is_accepted(item, self._dialect)

    def resume(self, response_id: str, *, model: Model, deadline: timedelta, handle: CallHandle) -> CallReport:
        """Poll a response that an earlier call created, whichever transport is chosen now; else as `call`."""
        try:
            ends_at = monotonic() + deadline.total_seconds()
            return resume_background(self._api, response_id, model, ends_at, handle)
        finally:
            handle.end()

    def cancel(self, response_id: str, model: Model) -> CallReport | None:
        """Cancel a response that an earlier call created, whichever transport is chosen now.

        Return None if the provider gave no clear reply and should be asked again.
        """
        return cancel_background(self._api, response_id, model)

    def delete(self, response_id: str) -> bool | None:
        """Delete a response at the provider, whichever transport is chosen now.

        Return False if the provider does not allow it; None if it gave no clear reply and should be asked again.
        """
        return delete_background(self._api, response_id)
