"""A thousand silent streams are checked with one query, which also finds events without a notification."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

import api.held_response
import jobs.notifications
from api.sse import Page
from tests.api.watching import OPENING, OUTPUT_EVENTS, kinds, watching
from tests.api.world import FakeWorker, Server, a_tenant, serve, settings_for
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

STREAMS = 5


@pytest.fixture
def server(database_url: str, shared_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that checks its streams and sends keep-alive comments very often."""
    monkeypatch.setattr(jobs.notifications, "READ_EVERY", 0.1)
    monkeypatch.setattr(api.held_response, "KEEPALIVE_SECONDS", 0.05)
    with serve(settings_for(database_url, shared_valkey.url)) as server:
        yield server


def test_silent_streams_are_checked_together_and_only_new_events_are_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, sequences, worker = server.state.listener, server.state.sequences, FakeWorker(server)
    looks: list[set[str]] = []
    reads: Counter[str] = Counter()
    emitted_counts, read = listener._emitted_counts, sequences.read

    def looking(ids: Iterable[str]) -> Mapping[str, float]:
        looks.append({*ids})
        return emitted_counts(looks[-1])

    async def reading(job_id: str, *rest: Any) -> Page:
        reads[job_id] += 1
        return await read(job_id, *rest)

    def all_show_queued() -> bool:
        return {each.reached for job_id in ids for each in listener._watching.get(job_id, ())} == {2}

    with a_tenant(server) as tenant, ExitStack() as streams:
        ids = [tenant.submit()["id"] for _ in range(STREAMS)]
        events = [streams.enter_context(watching(server, tenant, job_id)) for job_id in ids]
        await_until(all_show_queued, 5, "not all streams show that the response is queued")
        monkeypatch.setattr(listener, "_emitted_counts", looking)
        monkeypatch.setattr(sequences, "read", reading)
        await_until(lambda: looks.count({*ids}) >= 5, 10, "nobody looks at all of them together")
        assert len(looks) <= 5 + STREAMS // 2  # the first checks may cover only the first subscriptions
        assert not reads
        worker.complete(ids[0], announce=False)
        assert kinds(events[0].result(5)) == [*OPENING, *OUTPUT_EVENTS, "response.completed"]
        assert {*reads} == {ids[0]}
        tenant.http.delete(f"/v1/responses/{ids[1]}")
        for job_id in ids[2:]:
            worker.complete(job_id)
        assert events[1].result(5)[-1]["code"] == "response_not_found"
        assert events[-1].result(5)[-1]["type"] == "response.completed"
