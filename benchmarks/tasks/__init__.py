"""Every task on real data and a real backbone, where there are such; see `python -m benchmarks.tasks --help`."""
