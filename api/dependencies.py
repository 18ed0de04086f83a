"""What handlers ask for by type: the parts of this process, and who is calling."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.intake import Intake
from api.owed import Owed
from api.rendered import Rendered
from api.sequences import Sequences
from api.showing import Shown
from jobs.dispatch import Dispatcher, RunList
from jobs.errors import KeyRefused, NotAllowed
from jobs.events import Announcer, Waiters
from jobs.gathering import AsyncGathering
from jobs.models import Catalogue
from jobs.sealing import Seal
from jobs.settings import Settings
from jobs.store.database import Database
from jobs.store.keys import ApiKey, Scope
from jobs.store.queries import Standing

bearer = HTTPBearer(auto_error=False, description="An API key of this server: `backburner keys create NAME`.")


@dataclass(frozen=True)
class Parts:
    """Everything that an API process is made of."""

    settings: Settings
    database: Database
    catalogue: Catalogue
    dispatcher: Dispatcher
    run_list: RunList
    announcer: Announcer
    waiters: Waiters
    sequences: Sequences
    owed: Owed
    seal: Seal
    intake: Intake
    keys: AsyncGathering[str, ApiKey | None]
    standings: AsyncGathering[tuple[str, str], Standing | None]
    shown: AsyncGathering[tuple[str, str], Shown]
    rendered: Rendered


async def get_parts(request: Request) -> Parts:
    """The parts that the composition root put together."""
    parts: Parts = request.app.state.parts
    return parts


PartsDep = Annotated[Parts, Depends(get_parts)]


async def get_caller(
    parts: PartsDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> ApiKey:
    """The key that the request is made with.

    Raises:
        KeyRefused: there is none, or it is unknown or revoked.
    """
    if credentials is None or not credentials.credentials:
        raise KeyRefused(
            "You didn't provide an API key. Send it in the Authorization header: 'Authorization: Bearer YOUR_KEY'."
        )
    key = await parts.keys.do(credentials.credentials)
    if key is None:
        raise KeyRefused("Incorrect API key provided. Keys of this server are made by 'backburner keys create NAME'.")
    return key


class Requires:
    """A dependency that lets through callers whose key has `scope`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __call__(self, caller: Annotated[ApiKey, Depends(get_caller)]) -> ApiKey:
        """The caller.

        Raises:
            NotAllowed: the key lacks the scope.
        """
        if self._scope not in caller.scopes:
            raise NotAllowed(f"This API key lacks the scope '{self._scope}'.")
        return caller


Caller = Annotated[ApiKey, Depends(get_caller)]
Reader = Annotated[ApiKey, Depends(Requires(Scope.RESPONSES_READ))]
Writer = Annotated[ApiKey, Depends(Requires(Scope.RESPONSES_WRITE))]
UsageReader = Annotated[ApiKey, Depends(Requires(Scope.USAGE_READ))]
WebhookOwner = Annotated[ApiKey, Depends(Requires(Scope.WEBHOOKS))]
