"""Measurements of Backburner beside the plain way and the limit; `make bench` runs them. None of them is a test."""
