"""Input items of a response, and counting input tokens."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from api.body_reader import read_request_body
from api.dependencies import AppState, Reader, StateDep
from api.input_items import list_items, page_of
from api.item_references import names_items, resolve
from api.lists import ItemsListed, within_budget
from api.paging import ListedPage, Row
from api.request.base import refuse_nul
from api.request.body import parse_count
from api.request.openapi import count_body
from api.response_body import ErrorBody, InputItemPage, InputTokens
from api.routes.responses import ERRORS
from api.submit import refuse_unsupported
from api.token_estimate import bound_tokens
from jobs.conversation import Item, Turn, rebuild
from jobs.errors import RequestInvalid
from jobs.store.api_keys import ApiKey
from jobs.store.conversations import check_chain, read_remaining_turns, read_turns
from jobs.store.responses import get_job, get_request

COUNT_HEADER: Final = "x-backburner-token-count"
TOO_LARGE: Final[dict[int | str, dict[str, Any]]] = {413: {"model": ErrorBody, "description": "The body is too large."}}

router = APIRouter(prefix="/responses", tags=["responses"], responses=ERRORS)


@router.get("/{response_id}/input_items", summary="Input items", responses={200: {"model": InputItemPage}})
async def list_input_items(
    state: StateDep,
    caller: Reader,
    response_id: str,
    *,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(max_length=512, description="the last id of the previous page")] = None,
    before: Annotated[str | None, Query(max_length=512, description="the first id of the next page")] = None,
    include: Annotated[list[str] | None, Query(alias="include[]")] = None,
) -> Response:
    """List all items that a response was made from, newest first: its own input, and the turns before it.

    A page ends at 16 MB, with `has_more` set.
    """
    refuse_nul(response_id, "response_id")

    def read() -> tuple[list[Row], bool]:
        items = _items_of(state, caller, response_id, include or [])
        if order == "desc":
            items.reverse()
        page = page_of(items, limit=limit, after=after, before=before)
        if page is None:
            name = "after" if after is not None and all(item["id"] != after for item in items) else "before"
            raise RequestInvalid(f"Invalid '{name}': the response has no such input item.", name, "invalid_value")
        return within_budget(page[0], has_more=page[1], from_the_end=after is None and before is not None)

    return ListedPage(state.lists, caller.id, ItemsListed(state, read))


@router.post(
    "/input_tokens",
    summary="Count input tokens",
    responses={200: {"model": InputTokens}, **TOO_LARGE},
    openapi_extra={"requestBody": count_body()},
)
async def count_input_tokens(request: Request, state: StateDep, caller: Reader) -> Response:
    """Return an upper bound of the input tokens, without what `uncounted` names. Nothing is billed."""
    raw = await read_request_body(request, state.settings.max_body_bytes)
    return await run_in_threadpool(_count, state, caller, raw)


def _count(state: AppState, caller: ApiKey, raw: bytes) -> Response:
    counted = parse_count(raw)
    refuse_unsupported(counted.fields)
    if "model" in counted.body:
        state.catalogue.find(counted.fields.model)
    turns: list[Turn] = []
    before = counted.fields.previous_response_id
    if before is not None:
        with state.database.read() as tx:
            check_chain(tx, before, caller.id)
            turns = read_turns(tx, before, caller.id)
    input_ = counted.body.get("input") or ""
    if names_items(input_):
        with state.database.read() as tx:
            input_ = resolve(tx, input_, caller.id, before).input
    bound = bound_tokens(counted.body, rebuild(turns, input_))
    method = "partial" if bound.uncounted else "upper_bound"
    body: dict[str, Any] = {
        "object": "response.input_tokens",
        "input_tokens": bound.tokens,
        "backburner": {
            "method": method,
            "exact": False,
            "uncounted": list(bound.uncounted),
            "uncounted_files": bound.uncounted_files,
        },
    }
    return JSONResponse(body, headers={COUNT_HEADER: method.replace("_", "-")})


def _items_of(state: AppState, caller: ApiKey, response_id: str, include: list[str]) -> list[Item]:
    with state.database.read() as tx:
        job = get_job(tx, response_id, caller.id)
        _settings, input_ = get_request(tx, job.id)
        turns: list[Turn] = []
        if job.previous_response_id is not None:
            turns, _missing = read_remaining_turns(tx, job.previous_response_id, caller.id)
    return list_items(turns, Turn(job.id, input_), include)
