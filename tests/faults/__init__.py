"""Faults done to petune on purpose; the long forms are in `benchmarks/faults`."""
