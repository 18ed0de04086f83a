"""Periodic tasks that keep every job moving. Each is a guarded change of rows, so any worker may run it."""
