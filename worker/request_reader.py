"""Reads what a call has to send: the client's request and, for a follow-up, the conversation before it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from jobs.batching import Batcher, BatchFailed
from jobs.conversation import Turn, of_use, rebuild
from jobs.encryption import Cipher, DecryptionError
from jobs.job import Attempt, CallReport, Job
from jobs.store.attempts import CallRequest, requests_of
from jobs.store.conversations import note_sent, read_turns
from jobs.store.database import TOGETHER_SECONDS, Database
from jobs.tool_credentials import Credentials
from worker.provider.request import build_body

REQUESTS_TOGETHER: Final = 8
"""Requests read by one statement. Each may be as large as a body may be."""


class JobLost(Exception):
    """The job was cancelled, deleted or given to another worker, so no call must be sent for it."""


class RequestReader:
    """Reads requests for one worker process."""

    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        clock: Callable[[], datetime],
        accepts_item: Callable[[Mapping[str, Any]], bool],
    ) -> None:
        """Create it. `accepts_item` returns whether the provider takes an item of an earlier answer."""
        self._database = database
        self._cipher = cipher
        self._clock = clock
        self._accepts_item = accepts_item
        self._batches = Batcher(self._read_all, REQUESTS_TOGETHER)

    def read(self, attempt: Attempt) -> CallRequest:
        """Return the request of an attempt.

        Raises:
            JobLost: the job ended between the claim and the call's entry among those in flight.
        """
        try:
            request = self._batches.do(attempt)
        except BatchFailed:
            [request] = self._read_all([attempt])
        if request is None:
            raise JobLost
        return request

    def credentials(self, asked: CallRequest) -> Credentials:
        """Decrypt the credentials of a request's tools.

        Raises:
            DecryptionError: they cannot be read.
        """
        return Credentials.opened(asked.credentials, self._cipher)

    def body(self, job: Job, attempt: Attempt, asked: CallRequest, credentials: Credentials) -> dict[str, Any]:
        """Return the body to send.

        Raises:
            ChainBroken: an earlier response of the conversation was deleted.
            DecryptionError: the credentials of an earlier request cannot be read.
        """
        fields = credentials.put_back({**asked.settings, "input": asked.input})
        input_ = fields.pop("input")
        before = job.previous_response_id
        if before is not None:
            with self._database.read() as tx:
                turns = read_turns(tx, before, job.api_key_id)
            input_ = rebuild(map(self._with_credentials, turns), input_, self._accepts_item)
            with self._database.begin() as tx:
                note_sent(tx, attempt, len(turns) + 1, len(input_), self._clock())
        elif isinstance(input_, list):
            input_ = of_use(input_)
        return build_body(fields, input_, model_id=job.model, truncation=attempt.truncation)

    def without_credentials(self, report: CallReport, asked: CallRequest) -> CallReport:
        """Remove credentials from the report of a resumed call, if they still can be read."""
        try:
            return self.credentials(asked).withheld_from(report)
        except DecryptionError:
            return report

    def _with_credentials(self, turn: Turn) -> Turn:
        if turn.credentials is None:
            return turn
        return replace(turn, input=Credentials.opened(turn.credentials, self._cipher).put_back_into_input(turn.input))

    def _read_all(self, attempts: Sequence[Attempt]) -> Sequence[CallRequest | None]:
        with self._database.read(within=TOGETHER_SECONDS) as tx:
            return requests_of(tx, attempts)
