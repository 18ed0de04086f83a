"""An answer that is awaited on the connection of its request, without events."""

import httpx

from jobs.job import CallReport
from jobs.model_catalog import Model
from worker.provider.call_handle import CallHandle
from worker.provider.http_exchange import ResponsesApi, abort_failure


def call_plain(
    api: ResponsesApi, request: httpx.Request, model: Model, ends_at: float, handle: CallHandle
) -> CallReport:
    """Send one request and wait for its whole answer."""
    result = abort_failure(handle) or api.exchange(request, ends_at, handle, api.read_whole)
    return api.report(result, handle, model)
