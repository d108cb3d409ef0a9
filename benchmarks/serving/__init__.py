"""Serving many adapters on one backbone, measured beside peft: `python -m benchmarks.serving`."""
