"""Secrets at rest."""

import pytest
from pydantic import SecretStr

from jobs.encryption import Seal, SealBroken, generate_key

OLD, NEW = SecretStr(generate_key()), SecretStr(generate_key())


def test_what_was_sealed_is_opened_and_not_to_be_seen() -> None:
    seal = Seal([NEW])
    sealed = seal.seal("whsec_tëst")
    assert "whsec" not in sealed
    assert seal.open(sealed) == "whsec_tëst"


def test_a_key_is_replaced_by_putting_another_before_it() -> None:
    sealed = Seal([OLD]).seal("secret")
    both = Seal([NEW, OLD])
    assert both.open(sealed) == "secret"
    assert Seal([NEW]).open(both.seal("secret")) == "secret"
    with pytest.raises(SealBroken, match="BACKBURNER_ENCRYPTION_KEYS no longer holds"):
        Seal([NEW]).open(sealed)


def test_without_keys_it_says_which_variable_is_missing() -> None:
    seal = Seal([])
    assert not seal.is_there
    with pytest.raises(SealBroken, match="BACKBURNER_ENCRYPTION_KEYS is not set"):
        seal.seal("secret")
