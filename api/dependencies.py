"""Dependencies of the routes: the state of this process, and the API key of the request."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from api.auth import Callers, Submitter, allow
from api.held_limit import Holds
from api.hostname_lookup import Lookups
from api.key_revocation import KeyWatch
from api.paging import Lists
from api.readiness import DatabaseState, Probe
from api.response_cache import ResponseCache
from api.response_view import RenderedBody
from api.sdk_retry.tracker import UndeliveredTracker
from api.sse import Sequences
from api.submit_batch import NotSubmitted, SubmitBatcher
from jobs.batching import AsyncBatcher, NotBegun
from jobs.encryption import Cipher
from jobs.model_catalog import Catalogue
from jobs.notifications import Listener, Notifier
from jobs.queue_capacity import QueueCapacity
from jobs.settings import Settings
from jobs.store.api_keys import ApiKey, Scope
from jobs.store.database import DATABASE_ERRORS, Database
from jobs.store.responses import ResponseSummary
from jobs.task_queue import TaskQueue

documented = HTTPBearer(auto_error=False, description="An API key of this server: `backburner keys create NAME`.")


@dataclass(frozen=True)
class AppState:
    """The parts of an API process, put together by `api.main`."""

    settings: Settings
    database: Database
    catalogue: Catalogue
    task_queue: TaskQueue
    queue_capacity: QueueCapacity
    notifier: Notifier
    listener: Listener
    sequences: Sequences
    undelivered: UndeliveredTracker
    cipher: Cipher
    submit_batcher: SubmitBatcher
    holds: Holds
    callers: Callers
    key_watch: KeyWatch
    lists: Lists
    summaries: AsyncBatcher[tuple[str, str], ResponseSummary | None]
    bodies: AsyncBatcher[tuple[str, str], RenderedBody]
    response_cache: ResponseCache
    lookups: Lookups
    database_probe: Probe[DatabaseState]
    broker_probe: Probe[str | None]


async def get_state(request: Request) -> AppState:
    """Return the state of this process."""
    state: AppState = request.app.state.backburner
    return state


def secret_in(authorization: str | None) -> str | None:
    """Return the secret in an `Authorization` header, unchecked."""
    scheme, secret = get_authorization_scheme_param(authorization)
    return secret if scheme.lower() == "bearer" else None


async def get_secret(request: Request, _scheme: Annotated[object, Depends(documented)]) -> str | None:
    """Return the secret that the request was sent with, unchecked."""
    return secret_in(request.headers.get("authorization"))


StateDep = Annotated[AppState, Depends(get_state)]
Secret = Annotated[str | None, Depends(get_secret)]


async def get_caller(state: StateDep, secret: Secret) -> ApiKey:
    """Return the API key of the request.

    Raises:
        KeyRefused: the key is missing, unknown or revoked.
    """
    return await state.callers.find(secret)


class Requires:
    """Dependency that requires an API key with `scope`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __call__(self, state: StateDep, secret: Secret) -> ApiKey:
        """Return the API key.

        Raises:
            KeyRefused: the key is missing, unknown or revoked.
            NotAllowed: the key lacks the scope.
        """
        return allow(await state.callers.find(secret), self._scope)


class RequiresOfSubmitter:
    """The same for a create, whose key is checked again by the transaction that submits the job."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __call__(self, state: StateDep, secret: Secret) -> Submitter:
        """Return the API key as last read.

        Raises:
            KeyRefused: the key is missing, unknown or revoked.
            NotAllowed: the key lacks the scope.
            NotSubmitted: the database does not answer.
        """
        try:
            submitter = await state.callers.find_submitter(secret)
            if self._scope not in submitter.last_known.scopes:
                allow(await submitter.confirmed(), self._scope)
        except (*DATABASE_ERRORS, NotBegun) as error:
            raise NotSubmitted("The database does not answer.") from error
        return submitter


Caller = Annotated[ApiKey, Depends(get_caller)]
Reader = Annotated[ApiKey, Depends(Requires(Scope.RESPONSES_READ))]
Writer = Annotated[ApiKey, Depends(Requires(Scope.RESPONSES_WRITE))]
SubmitterDep = Annotated[Submitter, Depends(RequiresOfSubmitter(Scope.RESPONSES_WRITE))]
UsageReader = Annotated[ApiKey, Depends(Requires(Scope.USAGE_READ))]
WebhookOwner = Annotated[ApiKey, Depends(Requires(Scope.WEBHOOKS))]
