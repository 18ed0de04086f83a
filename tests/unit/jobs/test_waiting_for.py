"""The words that say why a queued job waits."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from jobs.errors import ErrorKind
from jobs.job import Job
from jobs.lifecycle import Status
from jobs.store.provider_limits import ProviderLimit
from jobs.store.waiting_for import waiting_for
from tests.unit.jobs.test_retry import JOB as RUNNING
from tests.unit.jobs.test_retry import NOW, SECOND

JOB = replace(RUNNING, status=Status.QUEUED, worker_id=None)
OPEN = ProviderLimit("provider")
MINUTE = timedelta(minutes=1)


def closed(kind: ErrorKind, because: str | None = None, **changes: Any) -> ProviderLimit:
    provider_limit = ProviderLimit("provider", paused_at=NOW - 3 * MINUTE, pause_kind=kind, pause_reason=because)
    return replace(provider_limit, probe_at=NOW + 8 * SECOND, **changes)


@pytest.mark.parametrize(
    ("job", "provider_limit", "words"),
    [
        (
            JOB,
            closed(ErrorKind.UNREACHABLE, "connection refused"),
            "provider unreachable (connection refused) since 15:06 UTC, next try in 8 s",
        ),
        (
            JOB,
            closed(ErrorKind.BAD_CREDENTIALS, "HTTP 401"),
            "provider refuses this server's key (HTTP 401) since 15:06 UTC, next try in 8 s",
        ),
        (
            JOB,
            closed(ErrorKind.OVERLOADED, "HTTP 503"),
            "provider is overloaded (HTTP 503) since 15:06 UTC, next try in 8 s",
        ),
        (JOB, OPEN, "no free slot"),
        (replace(JOB, attempt=0, available_at=NOW + MINUTE), OPEN, "run_at 2026-03-14T15:10:26Z"),
        (
            replace(JOB, attempt=0, available_at=NOW + MINUTE),
            closed(ErrorKind.OVERLOADED),
            "run_at 2026-03-14T15:10:26Z",
        ),
        (replace(JOB, blocked_by="resp_0"), OPEN, "the end of resp_0, which it follows"),
        (
            replace(JOB, available_at=NOW + 8 * SECOND, error_kind=ErrorKind.OVERLOADED, error_http_status=503),
            OPEN,
            "provider is overloaded (HTTP 503), next try in 8 s",
        ),
        (
            replace(JOB, available_at=NOW + 8 * SECOND, error_kind=ErrorKind.SERVER_ERROR, error_http_status=502),
            OPEN,
            "the last call failed (HTTP 502), next try in 8 s",
        ),
        (
            replace(JOB, available_at=NOW + 8 * SECOND, error_kind=ErrorKind.INTERRUPTED),
            OPEN,
            "the last call failed (interrupted), next try in 8 s",
        ),
        (
            replace(JOB, error_kind=ErrorKind.OUT_OF_CREDIT, error_http_status=403),
            OPEN,
            "provider says that this server's account has no credit (HTTP 403), next try now",
        ),
        (JOB, replace(OPEN, max_calls=4), "no free slot, as the provider takes no more than 4 calls at once for now"),
        (replace(JOB, status=Status.IN_PROGRESS), closed(ErrorKind.OVERLOADED), None),
    ],
)
def test_it_is_said_in_words(job: Job, provider_limit: ProviderLimit, words: str | None) -> None:
    assert waiting_for(job, provider_limit, NOW) == words
