"""Rows in, outside world out: the only part that calls the provider. Start reading at `worker.executor`."""
