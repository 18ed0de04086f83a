"""Benchmarks of Backburner, beside the plain way and the limit. `make bench` runs them; none of them is a test."""
