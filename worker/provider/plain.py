"""An answer awaited on the connection that asked for it."""

import httpx

from jobs.job import CallReport
from jobs.model_catalog import Model
from worker.provider.call_handle import CallHandle
from worker.provider.http_exchange import Endpoint, ended_here


def call_plain(
    endpoint: Endpoint, request: httpx.Request, model: Model, ends_at: float, handle: CallHandle
) -> CallReport:
    """Send one request and wait for its answer in whole."""
    came = ended_here(handle) or endpoint.exchange(request, ends_at, handle, endpoint.read_whole)
    return endpoint.report(came, handle, model)
