"""Encryption of secrets in the database: signing secrets of webhooks and credentials of tools.

Fernet (https://cryptography.io/en/latest/fernet/): the first key encrypts, all keys decrypt. To replace a key, put a
new one before it, and remove it once nothing is encrypted with it.
"""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from jobs.errors import BackburnerError

VARIABLE = "BACKBURNER_ENCRYPTION_KEYS"


class DecryptionError(BackburnerError):
    """A secret cannot be decrypted with the current keys. The message names the variable, never a key or a secret."""


class Cipher:
    """Encrypts and decrypts short texts; without keys it can do neither."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        """`keys` have been checked by the settings."""
        self._fernet = MultiFernet([Fernet(key.get_secret_value()) for key in keys]) if keys else None

    @property
    def is_there(self) -> bool:
        """Return whether there is a key."""
        return self._fernet is not None

    def encrypt(self, text: str) -> str:
        """Return `text` encrypted.

        Raises:
            DecryptionError: there is no key.
        """
        return self._keys().encrypt(text.encode()).decode("ascii")

    def decrypt(self, encrypted: str) -> str:
        """Return the decrypted text.

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
    """Return a new key in the form for the variable."""
    return Fernet.generate_key().decode("ascii")
