"""Flipped, cut and zeroed bytes anywhere in an adapter folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.faults.fuzz import FILES, WAYS, Mutant, tried
from benchmarks.faults.judging import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One live model, into which every mutant is swapped."""
    yield Bench(tmp_path_factory.mktemp("fuzz"))


@settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=list(HealthCheck), database=None)
@given(st.builds(Mutant, st.sampled_from(FILES), st.sampled_from(WAYS), st.floats(0, 1), st.integers(0, 7)))
def test_no_byte_makes_a_silent_difference(bench: Bench, mutant: Mutant) -> None:
    """A mutant is refused with the name of its folder, or loads with the same bits and labels."""
    outcome = tried(mutant, bench)
    assert not outcome.failed, outcome
