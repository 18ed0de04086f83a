"""The domain of Backburner, shared by every entry point: start reading at `jobs.lifecycle`."""
