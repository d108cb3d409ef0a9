"""Faults done to petune on purpose, and counted: kills, power cuts, full disks, damaged and hostile files, bad data.

Each harness is one module: `run(count, seed)` does `count` faults (or, where they can be enumerated, bounds how many)
and gives plain counts, `COUNT` is how many the long form does. The tests call the same function with a small count.
"""

from __future__ import annotations
