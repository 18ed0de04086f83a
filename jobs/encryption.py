"""Secrets at rest: those that sign webhooks or open tools lie in the database encrypted, under a key from the settings.

Fernet (https://cryptography.io/en/latest/fernet/): the first key encrypts, all of them decrypt. So a key is replaced by
putting a new one before it, and taken away once nothing is encrypted with it any more.
"""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from jobs.errors import BackburnerError

VARIABLE = "BACKBURNER_ENCRYPTION_KEYS"


class DecryptionError(BackburnerError):
    """A secret cannot be read with the keys at hand; the message names the variable, never a key or a secret."""


class Cipher:
    """Encrypts and decrypts short texts; without keys it can do neither."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        """`keys` have been checked by the settings."""
        self._fernet = MultiFernet([Fernet(key.get_secret_value()) for key in keys]) if keys else None

    @property
    def is_there(self) -> bool:
        """Whether there is any key."""
        return self._fernet is not None

    def encrypt(self, text: str) -> str:
        """Encrypt.

        Raises:
            DecryptionError: there is no key.
        """
        return self._keys().encrypt(text.encode()).decode("ascii")

    def decrypt(self, encrypted: str) -> str:
        """Decrypt.

        Raises:
            DecryptionError: there is no key, or none of them fits.
        """
        try:
            return self._keys().decrypt(encrypted.encode("ascii")).decode()
        except InvalidToken:
            raise DecryptionError(f"A secret was encrypted with a key that {VARIABLE} no longer holds") from None

    def _keys(self) -> MultiFernet:
        if self._fernet is None:
            raise DecryptionError(f"{VARIABLE} is not set")
        return self._fernet


def generate_key() -> str:
    """A fresh key in the form that the variable takes."""
    return Fernet.generate_key().decode("ascii")
