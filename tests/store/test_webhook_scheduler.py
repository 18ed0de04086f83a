"""The order of due deliveries: round-robin across keys and targets, with a fair share of the slots for each key."""

from datetime import timedelta

from sqlalchemy import select, update

from jobs.lifecycle import Status, Verb
from jobs.store import schema
from jobs.store.webhooks.claims import claim_deliveries
from jobs.store.webhooks.scheduler import MOST_PER_TARGET
from tests.store.test_webhook_deliveries import delivery_ids, due, endpoint
from tests.support.records import Records, make_key

SECOND = timedelta(seconds=1)


def test_targets_are_picked_in_rounds(records: Records) -> None:
    keys = {name: make_key(records.database, name) for name in "abc"}
    for name, key in keys.items():
        endpoint(records, f"target {name}", key)
    for name in "aaaaabbc":
        records.move(Verb.CANCEL, records.submit_job(keys[name]))
        records.clock.advance(SECOND)
    row = schema.webhook_deliveries.c
    picked = due(records, 7)
    with records.database.read() as tx:
        targets = {each.id: each.target for each in tx.execute(select(row.id, row.target))}
    assert "".join(targets[each][-1] for each in picked) == "abcab"


def test_a_target_gets_one_more_than_are_being_sent_up_to_a_bound(records: Records) -> None:
    endpoint(records)
    ids = [delivery_ids(records, records.job_in(Status.CANCELLED))[0] for _ in range(MOST_PER_TARGET + 4)]
    assert due(records) == ids[:2]
    for number, each in enumerate(ids[:MOST_PER_TARGET], 1):
        with records.database.begin() as tx:
            assert claim_deliveries(tx, [each], records.worker_id, records.clock())
        assert due(records) == (ids[number : number + 1] if number < MOST_PER_TARGET else [])


def test_a_key_gets_its_share_of_the_slots_and_the_next_key_goes_first(records: Records) -> None:
    """However many targets it has: their messages would stand before those of other keys."""
    other = make_key(records.database, "other")
    for number in range(70):
        endpoint(records, f"target {number:02}")
    endpoint(records, "their target", other)
    many = delivery_ids(records, records.job_in(Status.CANCELLED))
    records.clock.advance(SECOND)
    [theirs] = delivery_ids(records, records.move(Verb.CANCEL, records.submit_job(other)))
    picked = due(records, slots=20)
    assert (picked[1], len(picked)) == (theirs, 16)
    with records.database.begin() as tx:
        assert len(claim_deliveries(tx, picked[:1] + picked[2:], records.worker_id, records.clock())) == 15
    assert due(records, slots=20) == [theirs]
    more = due(records, slots=40)
    assert (more[0], len(more)) == (theirs, 16)
    assert set(more[1:]) <= set(many) - set(picked)
    assert len(due(records)) == 56


def test_an_enqueued_delivery_is_not_enqueued_again_at_once(records: Records) -> None:
    endpoint(records)
    [delivery_id] = delivery_ids(records, records.job_in(Status.CANCELLED))
    now = records.clock()
    assert due(records, enqueued_before=now) == []  # enqueued when the job ended
    records.clock.advance(SECOND)
    assert due(records, enqueued_before=records.clock()) == [delivery_id]
    assert due(records, enqueued_before=records.clock()) == []


def test_a_delivery_that_waits_for_its_next_attempt_is_not_due(records: Records) -> None:
    endpoint(records)
    [delivery_id] = delivery_ids(records, records.job_in(Status.CANCELLED))
    row = schema.webhook_deliveries.c
    with records.database.begin() as tx:
        tx.execute(update(schema.webhook_deliveries).values(available_at=records.clock() + SECOND))
        assert tx.execute(select(row.id)).scalar_one() == delivery_id
    assert due(records) == []
