"""`/models`: the models of this server."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.dependencies import Caller, StateDep
from api.response_body import ModelBody, ModelPage, render_model, render_page
from api.routes.responses import ERRORS

router = APIRouter(prefix="/models", tags=["models"], responses=ERRORS)


@router.get("", summary="List", responses={200: {"model": ModelPage}})
def list_models(state: StateDep, _caller: Caller) -> Response:
    """List the models that this server accepts."""
    return JSONResponse(render_page([render_model(model) for model in state.catalogue.models], has_more=False))


@router.get("/{model_id:path}", summary="Retrieve", responses={200: {"model": ModelBody}})
def retrieve_model(state: StateDep, _caller: Caller, model_id: str) -> Response:
    """Get one model. Its id may contain a slash."""
    return JSONResponse(render_model(state.catalogue.find(model_id)))
