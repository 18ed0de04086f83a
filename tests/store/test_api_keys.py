"""API keys: shown once, stored as a hash, revoked at once."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from jobs.errors import SettingsError
from jobs.lifecycle import Status
from jobs.store import schema
from jobs.store.api_keys import (
    BOOTSTRAP_ID,
    Scope,
    create_key,
    digest,
    ensure_bootstrap_key,
    find_key,
    generate_secret,
    list_keys,
    revoke_key,
)
from jobs.store.database import Database
from tests.support.clock import START, Clock
from tests.support.racing import race
from tests.support.records import Records, snapshot


def test_a_key_is_found_by_its_secret_and_by_nothing_else(database: Database) -> None:
    with database.begin() as tx:
        key, secret = create_key(tx, "ci", [Scope.USAGE_READ], START)
        other, _ = create_key(tx, "ci", None, START)
        assert find_key(tx, secret) == key
        assert (key.name, key.scopes, key.created_at) == ("ci", frozenset({Scope.USAGE_READ}), START)
        assert other.scopes == set(Scope)
        for wrong in ("", " ", secret[:-1], f"{secret} ", secret.upper(), digest(secret), key.id):
            assert find_key(tx, wrong) is None


def test_no_secret_is_stored(database: Database) -> None:
    with database.begin() as tx:
        _key, secret = create_key(tx, "ci", None, START)
        ensure_bootstrap_key(tx, "bb_bootstrap-secret", START)
    assert secret.removeprefix("bb_") not in str(snapshot(database))
    assert "bootstrap-secret" not in str(snapshot(database))


def test_secrets_are_long_and_unique() -> None:
    secrets = {generate_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(secret.startswith("bb_") and len(secret) >= 43 for secret in secrets)


def test_a_revoked_key_is_invalid_and_stays_listed(records: Records, clock: Clock) -> None:
    with records.database.begin() as tx:
        key, secret = create_key(tx, "ci", None, clock())
        revoked = revoke_key(tx, key.id, clock.advance(timedelta(days=1)))
        assert revoked is not None
        assert revoked.revoked_at == clock()
        assert find_key(tx, secret) is None
        again = revoke_key(tx, key.id, clock.advance(timedelta(days=1)))
        assert again == revoked, "the first moment stands"
        assert [each.id for each in list_keys(tx)] == [records.key.id, key.id]
        assert revoke_key(tx, "key_unknown", clock()) is None


def test_jobs_of_a_revoked_key_continue(records: Records, clock: Clock) -> None:
    job = records.submit_job()
    with records.database.begin() as tx:
        revoke_key(tx, records.key.id, clock())
    assert records.claim(job)[0].status is Status.IN_PROGRESS


class TestBootstrap:
    def test_it_is_created_once_with_every_scope(self, database: Database) -> None:
        with database.begin() as tx:
            ensure_bootstrap_key(tx, "bb_one", START)
        before = snapshot(database)
        with database.begin() as tx:
            ensure_bootstrap_key(tx, "bb_one", START + timedelta(days=1))
            key = find_key(tx, "bb_one")
        assert snapshot(database) == before
        assert key is not None
        assert (key.id, key.scopes) == (BOOTSTRAP_ID, frozenset(Scope))

    def test_a_changed_secret_replaces_the_old_one_under_the_same_id(self, database: Database) -> None:
        with database.begin() as tx:
            ensure_bootstrap_key(tx, "bb_one", START)
            ensure_bootstrap_key(tx, "bb_two", START)
            assert find_key(tx, "bb_one") is None
            key = find_key(tx, "bb_two")
            assert tx.execute(select(schema.api_keys.c.id)).scalars().all() == [BOOTSTRAP_ID]
        assert key is not None
        assert key.id == BOOTSTRAP_ID

    def test_a_new_secret_is_valid_after_the_old_one_was_revoked(self, database: Database) -> None:
        later = START + timedelta(days=1)
        with database.begin() as tx:
            ensure_bootstrap_key(tx, "bb_one", START)
            revoke_key(tx, BOOTSTRAP_ID, later)
        with database.begin() as tx:
            assert ensure_bootstrap_key(tx, "bb_one", later).revoked_at == later, "the same secret stays revoked"
            assert find_key(tx, "bb_one") is None
        with database.begin() as tx:
            made = ensure_bootstrap_key(tx, "bb_two", later)
            assert made == find_key(tx, "bb_two")
            assert (made.id, made.revoked_at) == (BOOTSTRAP_ID, None)
            assert find_key(tx, "bb_one") is None
            [ended] = [each for each in list_keys(tx) if each.id != BOOTSTRAP_ID]
            assert (ended.name, ended.revoked_at) == ("bootstrap (revoked)", later)
        with pytest.raises(SettingsError, match="revoked"), database.begin() as tx:
            ensure_bootstrap_key(tx, "bb_one", later)
        with database.begin() as tx:
            assert find_key(tx, "bb_two") == made

    @pytest.mark.parametrize("first", [True, False], ids=["at the first start", "in place of another"])
    def test_the_secret_of_a_tenants_key_is_refused_and_changes_nothing(self, first: bool, database: Database) -> None:
        with database.begin() as tx:
            key, secret = create_key(tx, "alice", [Scope.USAGE_READ], START)
            if not first:
                ensure_bootstrap_key(tx, "bb_one", START)
        before = snapshot(database)
        with pytest.raises(SettingsError) as refused, database.begin() as tx:
            ensure_bootstrap_key(tx, secret, START)
        assert "BACKBURNER_API_KEY" in str(refused.value)
        assert f"'alice' ({key.id})" in str(refused.value)
        assert secret not in str(refused.value)
        assert snapshot(database) == before

    @pytest.mark.parametrize("secrets", [("bb_one", "bb_one"), ("bb_one", "bb_two")])
    def test_processes_that_start_together_agree(self, secrets: tuple[str, str], database: Database) -> None:
        def start(secret: str) -> None:
            with database.begin() as tx:
                ensure_bootstrap_key(tx, secret, START)

        for _ in range(30):
            race(lambda: start(secrets[0]), lambda: start(secrets[1]))
            with database.begin() as tx:
                assert find_key(tx, secrets[0]) or find_key(tx, secrets[1])
                tx.execute(schema.api_keys.delete())
