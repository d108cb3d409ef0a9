"""One file = one command: `doctor.py` holds `def doctor(...)`, whose docstring is its help.

A file imports typer, the standard library and `petune.errors` at its top and everything heavy inside its function, so
that `petune --help`, which reads them all, stays quick.
"""
