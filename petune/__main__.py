"""`python -m petune` is the command line."""

from __future__ import annotations

from petune.cli import main

if __name__ == "__main__":
    main()
