"""SECURITY.md names what exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOTE = (ROOT / "SECURITY.md").read_text("utf-8")


def test_the_tests_that_it_names_exist() -> None:
    """Each claim stands beside a file of the suite that is there."""
    named = re.findall(r"`(tests/[\w/]+\.py)`", NOTE)
    assert len(named) >= 6
    assert [path for path in named if not (ROOT / path).is_file()] == []
    assert (ROOT / "benchmarks" / "faults" / "__main__.py").is_file()


def test_it_sends_nobody_to_an_address() -> None:
    """Reports go through the repository; no mail address or site is made up."""
    assert "@" not in NOTE and "http" not in NOTE and "private vulnerability report" in NOTE


def test_its_links_lead_somewhere() -> None:
    """Relative links name files of the repository."""
    links = re.findall(r"\]\(([^)]+)\)", NOTE)
    assert links and all((ROOT / link).is_file() for link in links)
