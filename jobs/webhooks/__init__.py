"""Webhooks without HTTP: events and their signature, and the URLs that they may be sent to."""
