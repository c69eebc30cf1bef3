"""Offline benchmarks on CPU; each prints a table and writes JSON, with the machine named."""
