"""Every hot query is an index lookup on both databases, with realistic numbers of rows.

The plans are those of the statements that the store sends, which are captured.
"""

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select

from jobs.errors import ErrorKind, Failure
from jobs.job import Outcome
from jobs.lifecycle import Status, Verb
from jobs.notifications import Notifier
from jobs.redis_url import connect
from jobs.store import api_keys, responses, schema, workers
from jobs.store.attempts import attempts_of, close_lost, unwanted_copies, unwanted_responses
from jobs.store.conversations import check_chain, read_turns, ready_follow_ups
from jobs.store.database import Database
from jobs.store.fair_scheduler import FairScheduler
from jobs.store.jobs import erase
from jobs.store.output_items import find_items
from jobs.store.pending_work import tasks_with_work
from jobs.store.reconciliation import doubtful_attempts
from jobs.store.responses import Filters
from jobs.store.undelivered_creates import UndeliveredCreate, delete_delivered, find_earlier_creates, mark_lost
from jobs.store.usage import usage_by_day
from jobs.store.usage_rollup import add_up
from jobs.store.webhooks import delivery_log, endpoints
from jobs.store.webhooks.claims import claim_deliveries, find_due, owners_of
from jobs.store.webhooks.outbox import write_events
from jobs.store.webhooks.results import record_delivery_attempt, rescue_deliveries
from jobs.store.webhooks.scheduler import due_of_target, pick_due_deliveries
from jobs.webhooks.protocol import DeliveryReport, DeliveryStatus
from tests.store.full_database import NOW, World, fill
from tests.support.names import get_names
from tests.support.plans import Statement, captured, explain
from tests.support.records import ANSWER, MODEL, claim_one, end_one, move_one
from worker.maintenance import deadlines, deliveries, pruner

SECOND = timedelta(seconds=1)
FEW = {
    "workers",
    "provider_limits",
    "api_processes",
    "undelivered_creates",
    "ix_jobs_held",
    "ix_attempts_open",
    "ix_jobs_waiting",
    "ix_jobs_following",
    "ix_webhook_deliveries_sending",
    "ix_webhook_deliveries_open",
    "ix_webhook_endpoints_disabled",
}
"""Tables and indexes that may be read as a whole, because their size does not grow with the number of jobs.

They have an entry for each worker, running call, API process, create in progress, follow-up that has not run, or
disabled endpoint. Of the open deliveries only the first is read, which PostgreSQL's plan does not show.
"""
A_PAGE = 1_000
# the days and models of the requested span; the turns of one conversation; at most a hundred endpoints; the keys that
# have queued jobs
SORTED = {
    "usage of a day",
    "read a conversation",
    "check a conversation",
    "webhook metrics",
    "list endpoints",
    "pick due jobs",
}

SCANNED = {
    # one probe for each key every ten minutes, as there are few keys compared to calls
    "add up attempts": {"pk_api_keys", "sqlite_autoindex_api_keys_1"},
    # only the first entry is read
    "pending work": {"ix_jobs_due", "ix_jobs_parked", "ix_webhook_deliveries_due"},
}


@pytest.fixture(scope="module")
def world(database_url_of_module: str) -> Iterator[World]:
    database = Database(database_url_of_module)
    yield fill(database)
    database.close()


class Undone(Exception):
    """Roll a transaction back."""


def list_by(filters: Filters, **page: Any) -> Callable[[Connection, World], object]:
    def run(tx: Connection, world: World) -> object:
        after = world.one(Status.COMPLETED) if page.get("deep") else None
        ascending = bool(page.get("ascending"))
        return responses.list_sizes(tx, world.key_id, filters, limit=20, after=after, ascending=ascending)

    return run


def claim_and_record(tx: Connection, world: World) -> None:
    begun = claim_one(tx, first_due(tx, world), world.worker_id, NOW)
    assert begun is not None
    job, attempt = begun
    end_one(tx, attempt, Outcome.COMPLETED, NOW, ANSWER)
    move_one(tx, Verb.COMPLETE, job, NOW)


def first_due(tx: Connection, world: World) -> str:
    row = schema.jobs.c
    due = select(row.id).where(row.id.in_(world.by_status[Status.QUEUED][:100]), row.available_at <= NOW)
    return str(tx.execute(due.limit(1)).scalar_one())


def rescue(tx: Connection, world: World) -> None:
    held, opened = workers.orphaned(tx, 200)
    assert held
    assert opened
    close_lost(tx, opened[0].job_id, opened[0].number, NOW, Failure(ErrorKind.LOST, "Silent."))


def position(tx: Connection, world: World) -> None:
    assert responses.queue_position(tx, responses.get_job(tx, world.by_status[Status.QUEUED][-1]))


def add_up_attempts(tx: Connection, world: World) -> None:
    erase(tx, responses.get_job(tx, world.by_status[Status.COMPLETED][200]))  # the pruner erases the first
    assert add_up(tx, NOW - timedelta(days=20), 500)


def answer_and_lose(tx: Connection, world: World) -> None:
    delete_delivered(tx, ["req_1", "req_2"])
    mark_lost(tx, ["req_3"], NOW)


def retry_of(world: World) -> UndeliveredCreate:
    return UndeliveredCreate(world.key_id, f"{7:064x}", "req_new", "api_1")


def pick(tx: Connection, world: World) -> None:
    assert len(FairScheduler().pick(tx, NOW, 200, NOW - SECOND)) == 200


def delete(tx: Connection, world: World) -> None:
    erase(tx, responses.get_job(tx, world.one(Status.COMPLETED)))


def write_and_claim(tx: Connection, world: World) -> None:
    job = responses.get_job(tx, world.one(Status.COMPLETED))
    [delivery_id, *_named] = write_events(tx, [job], NOW)
    assert find_due(tx, [delivery_id], NOW)
    assert owners_of(tx, [delivery_id])
    sending = claim_deliveries(tx, [delivery_id], world.worker_id, NOW)[delivery_id]
    assert record_delivery_attempt(tx, sending, DeliveryReport(None, 200), NOW, 0).status


def hook(tx: Connection, world: World) -> endpoints.Endpoint:
    return endpoints.get_endpoint(tx, f"we_{0:032x}", world.key_id)


def log_of(**page: Any) -> Callable[[Connection, World], object]:
    return lambda tx, world: delivery_log.list_deliveries(tx, hook(tx, world), limit=20, **page)


def redeliver_and_recover(tx: Connection, world: World) -> None:
    [delivery, *_], _more = delivery_log.list_deliveries(tx, hook(tx, world), limit=1)
    delivery_log.redeliver(tx, delivery_log.get_delivery(tx, delivery.id, world.key_id).id, NOW)
    delivery_log.recover(tx, hook(tx, world), NOW - timedelta(days=1), NOW)


def webhook_metrics(tx: Connection, _world: World) -> None:
    assert delivery_log.count_ended_deliveries(tx, NOW - timedelta(minutes=15))
    assert delivery_log.oldest_undelivered_at(tx)
    assert endpoints.count_disabled(tx) == 1


MIDDLE = NOW - timedelta(days=15)
LOOKUPS: dict[str, Callable[[Connection, World], object]] = {
    "claim and record": claim_and_record,
    "get": lambda tx, world: responses.get_response_document(tx, world.one(Status.COMPLETED), world.key_id),
    "get the request": lambda tx, world: responses.get_request(tx, world.one(Status.COMPLETED)),
    "get the attempts": lambda tx, world: attempts_of(tx, world.one(Status.COMPLETED)),
    "list": list_by(Filters()),
    "list, deep": list_by(Filters(), deep=True),
    "list, oldest first": list_by(Filters(), ascending=True),
    "list, oldest first, deep": list_by(Filters(), ascending=True, deep=True),
    "list a common status": list_by(Filters(status=Status.COMPLETED), deep=True),
    "list a rare status": list_by(Filters(status=Status.CANCELLED)),
    "list a status that nothing has": list_by(Filters(status=Status.IN_PROGRESS, created_before=MIDDLE)),
    "list a common model": list_by(Filters(model=MODEL), deep=True),
    "list an unknown model": list_by(Filters(model="no/such")),
    "list a common label": list_by(Filters(metadata={"project": "a"})),
    "list a common label, deep": list_by(Filters(metadata={"project": "a"}), deep=True),
    "list a label of one": list_by(Filters(metadata={"ticket": "4711"})),
    "list by two labels": list_by(Filters(metadata={"project": "a", "ticket": "4711"})),
    "list a span": list_by(Filters(created_after=MIDDLE, created_before=MIDDLE + timedelta(hours=1))),
    "list a span and a label": list_by(
        Filters(created_after=MIDDLE, created_before=MIDDLE + timedelta(hours=1), metadata={"project": "a"})
    ),
    "pick due jobs": pick,
    "queue position": position,
    "oldest due": lambda tx, _world: responses.oldest_due_at(tx),
    "orphaned": rescue,
    "doubtful attempts": lambda tx, world: doubtful_attempts(tx, world.now - timedelta(days=1), world.now, 500),
    "unwanted responses": lambda tx, world: unwanted_responses(tx, world.now - timedelta(days=1), 50),
    "unwanted copies": lambda tx, world: unwanted_copies(
        tx, world.now - timedelta(days=30), world.now - timedelta(days=1), 50
    ),
    "erase": delete,
    "read a conversation": lambda tx, world: read_turns(tx, world.one(Status.COMPLETED), world.key_id),
    "check a conversation": lambda tx, world: check_chain(tx, world.one(Status.COMPLETED), world.key_id),
    "find an item": lambda tx, world: find_items(tx, world.key_id, [f"msg_{world.one(Status.COMPLETED)}", "msg_0"]),
    "ready follow-ups": lambda tx, _world: ready_follow_ups(tx, 200),
    "a repeated request": lambda tx, world: find_earlier_creates(tx, retry_of(world), NOW, NOW),
    "answered and lost": answer_and_lose,
    "write and claim a delivery": write_and_claim,
    "pick due deliveries": lambda tx, _world: pick_due_deliveries(tx, NOW, 200, NOW),
    "due for one target": lambda tx, world: due_of_target(tx, f"{world.key_id} https://a:443", NOW, 16),
    "rescue deliveries": lambda tx, _world: rescue_deliveries(tx, NOW),
    "list endpoints": lambda tx, world: endpoints.list_endpoints(tx, world.key_id, limit=20),
    "log of deliveries": log_of(),
    "log of deliveries, deep": log_of(after=f"whd_{0x018:03x}{'f' * 29}"),
    "log of a status": log_of(status=DeliveryStatus.FAILED),
    "redeliver and recover": redeliver_and_recover,
    "webhook metrics": webhook_metrics,
    "find a key": lambda tx, _world: api_keys.find_key(tx, "a secret"),
    "add up attempts": add_up_attempts,
    "pending work": lambda tx, _world: tasks_with_work(tx, NOW, timedelta(seconds=10), "provider_limit"),
    "usage of a day": lambda tx, world: usage_by_day(tx, world.key_id, NOW - timedelta(days=1), NOW),
}


def run_and_capture(world: World, run: Callable[[Connection, World], object]) -> list[Statement]:
    with captured(world.database) as statements, suppress(Undone), world.database.begin() as tx:
        run(tx, world)
        raise Undone
    return [each for each in statements if not each.sql.startswith(("BEGIN", "SAVEPOINT"))]


def check(
    world: World, statements: list[Statement], *, sorts: bool = False, scanned: AbstractSet[str] = frozenset()
) -> None:
    indexes: set[str] = set()
    for statement in {each.sql: each for each in statements}.values():
        for generic in (False, True)[: 1 if world.database.is_sqlite else 2]:
            plan = explain(world.database, statement, generic=generic)
            details = f"{'generic ' * generic}plan of {statement.sql}\n{plan.text}"
            assert not (set(plan.whole_scans) - FEW - scanned), details
            assert sorts or plan.largest_sort <= A_PAGE, details
            indexes |= set(plan.indexes)
    assert indexes, "nothing was looked up"


@pytest.mark.parametrize("name", LOOKUPS)
def test_a_hot_query_is_an_index_lookup(name: str, world: World) -> None:
    """It is also one under the generic plan of a prepared statement."""
    check(world, run_and_capture(world, LOOKUPS[name]), sorts=name in SORTED, scanned=SCANNED.get(name, set()))


def test_the_queries_of_maintenance_are_index_lookups(world: World) -> None:
    check(world, capture_maintenance(world))


def test_every_index_is_used(world: World) -> None:
    """An index that serves neither these queries nor a foreign key would only slow down writes."""
    statements = [each for run in LOOKUPS.values() for each in run_and_capture(world, run)]
    statements += capture_maintenance(world)
    used = {index for statement in statements for index in explain(world.database, statement).indexes}
    declared = {index for table in schema.metadata.sorted_tables for index in table.indexes}
    cascading = {index for index in declared if any(key.ondelete for key in index.columns[0].foreign_keys)}
    assert {str(index.name) for index in declared - cascading} <= used


def capture_maintenance(world: World) -> list[Statement]:
    """Run deadlines and the pruner on a few jobs."""
    notifier = Notifier(connect("redis://127.0.0.1:1/0"), get_names)
    with captured(world.database) as statements:
        world.now += timedelta(minutes=10)
        assert 0 < deadlines.run_once(world.database, notifier, world.now) < 100
        assert 0 < pruner.run_once(world.database, world.now, timedelta(days=30) - timedelta(minutes=10)) < 100
        assert 0 < deliveries.prune(world.database, world.now, timedelta(days=30) - timedelta(minutes=10)) < 500
    return [each for each in statements if not each.sql.startswith("BEGIN")]
