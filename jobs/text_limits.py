"""Lengths, in characters, to which text from outside is cut before it is stored or shown."""

from typing import Final

ERROR_MESSAGE: Final = 4_000
"""The message of a failed job or attempt, as stored."""
PROVIDER_MESSAGE: Final = 2_000
"""A message in a provider's answer."""
PROVIDER_NAME: Final = 200
"""A code, a type or a similar short word in a provider's answer."""
PROVIDER_ID: Final = 2_000
"""The id of a provider's response. Gateways pack whole routes into it, and a truncated id fetches nothing."""
PAUSE_REASON: Final = 200
"""The reason why a provider is paused, as stored."""
