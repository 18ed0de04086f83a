"""Secrets at rest."""

import pytest
from pydantic import SecretStr

from jobs.encryption import Cipher, DecryptionError, generate_key

OLD, NEW = SecretStr(generate_key()), SecretStr(generate_key())


def test_encrypted_text_is_decrypted_and_unreadable_before() -> None:
    cipher = Cipher([NEW])
    encrypted = cipher.encrypt("whsec_tëst")
    assert "whsec" not in encrypted
    assert cipher.decrypt(encrypted) == "whsec_tëst"


def test_a_key_is_replaced_by_putting_another_before_it() -> None:
    encrypted = Cipher([OLD]).encrypt("secret")
    both = Cipher([NEW, OLD])
    assert both.decrypt(encrypted) == "secret"
    assert Cipher([NEW]).decrypt(both.encrypt("secret")) == "secret"
    with pytest.raises(DecryptionError, match="BACKBURNER_ENCRYPTION_KEYS no longer holds"):
        Cipher([NEW]).decrypt(encrypted)


def test_without_keys_it_says_which_variable_is_missing() -> None:
    cipher = Cipher([])
    assert not cipher.is_there
    with pytest.raises(DecryptionError, match="BACKBURNER_ENCRYPTION_KEYS is not set"):
        cipher.encrypt("secret")
