"""The whole catalogue of bad adapter folders, through every way into a model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.faults.bad_adapters import catalogue, loaded_good, tried
from benchmarks.faults.judging import Bench

GROUPS = catalogue()
LEAST = {"container": 42, "tensors": 31, "config": 57, "files": 19}
"""Kinds that were tried on other libraries."""
CHUNK = 25
CHUNKS = [(group, start) for group, kinds in GROUPS.items() for start in range(0, len(kinds), CHUNK)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One live model for all of them; it must be the same after each."""
    yield Bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize(("group", "start"), CHUNKS)
def test_every_bad_folder_is_a_clear_error_that_changes_nothing(bench: Bench, group: str, start: int) -> None:
    """Path, key or field, cause and fix, in time; nothing runs; the live model and its adapters are what they were."""
    cases = tried(GROUPS[group][start : start + CHUNK], bench)
    wrong = [(case.kind, case.form, case.surface, case.verdict) for case in cases if case.failed]
    assert cases and not wrong


def test_the_catalogue_has_every_group_in_full() -> None:
    """No kind twice, and as many in each group as other libraries were tried with."""
    names = [kind.name for kinds in GROUPS.values() for kind in kinds]
    assert len(names) == len(set(names))
    assert all(len(GROUPS[group]) >= least for group, least in LEAST.items())


def test_what_has_no_sealed_form_says_why() -> None:
    """Damaged, and with every digest made right again; or a reason why that would be no fault, or the same one."""
    for kinds in GROUPS.values():
        for kind in kinds:
            sealed = any(form.name == "sealed" for form in kind.forms)
            assert sealed is not bool(kind.unsealed), kind.name


def test_good_folders_load_bit_for_bit(bench: Bench) -> None:
    """Edited cards, byte-order marks, peft's own folder and the hub's cache are no faults."""
    found = loaded_good(bench)
    assert len(found) >= 6 and all(found.values())
