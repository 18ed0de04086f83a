"""The record: every table, the only writers of a job's status, and every read."""
