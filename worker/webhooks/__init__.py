"""Webhook deliveries of a worker: claim, sign, send, record."""
