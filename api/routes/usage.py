"""`/usage`: tokens, calls and cost by day, model and key."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from api.dependencies import StateDep, UsageReader
from api.response_body import UsagePage, render_page, render_usage
from api.routes.responses import ERRORS
from jobs.errors import RequestInvalid
from jobs.store.usage import usage_by_day

DEFAULT_SPAN = timedelta(days=30)

router = APIRouter(prefix="/usage", tags=["usage"], responses=ERRORS)


@router.get("", summary="Usage", responses={200: {"model": UsagePage}})
def usage(
    state: StateDep,
    caller: UsageReader,
    start: Annotated[float | None, Query(ge=0, le=4e9, description="unix seconds, inclusive")] = None,
    end: Annotated[float | None, Query(ge=0, le=4e9, description="unix seconds, exclusive")] = None,
) -> Response:
    """Get the usage of your API key by day (UTC) and model, latest first. The default is the last 30 days.

    Every call counts.
    """
    until = state.database.clock() if end is None else datetime.fromtimestamp(end, UTC)
    since = until - DEFAULT_SPAN if start is None else datetime.fromtimestamp(start, UTC)
    if since >= until:
        raise RequestInvalid("Invalid 'start': expected a moment before 'end'.", "start", "invalid_value")
    with state.database.read() as tx:
        rows = usage_by_day(tx, caller.id, since, until)
    return JSONResponse(render_page([render_usage(row) for row in rows], has_more=False))
