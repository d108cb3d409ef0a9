"""The whole catalogue of bad adapter folders, through every way into a model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.bad_adapters import catalogue, loaded_good, tried
from benchmarks.faults.judging import SLOWEST, Bench
from petune import diagnose

GROUPS = catalogue()
LEAST = {"container": 42, "tensors": 31, "config": 57, "files": 19}
"""Kinds that were tried on other libraries."""
CHUNK = 25
CHUNKS = [(group, start) for group, kinds in GROUPS.items() for start in range(0, len(kinds), CHUNK)]
NEEDS_A_BACKBONE = {
    *("a head of int64", "a head of other classes", "a head of other width", "a bias of other classes"),
    *("the bias of the head is missing", "a listed part of the head more"),
    *("another input width", "another output width", "a listed site is missing", "a listed site more"),
    *("a listed site that is no module", "a listed weight of the backbone"),
    *("a label too few", "a label too many", "labels that are gone", "a target that is not there", "other targets"),
    *("one more target", "fewer blocks", "more blocks than there are", "a module that is not there"),
    *("other weights of equal shapes", "another architecture"),
}
"""Kinds that are faults on a given backbone only: a folder by itself does not show them."""
OTHERWISE = {"the folder around it": "store", "a tokenizer with code": "code"}
"""Kinds that the doctor sees and does not call an error -> the kind of folder, or of finding, that it tells."""


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


@pytest.mark.parametrize("group", GROUPS)
def test_the_doctor_finds_what_a_folder_shows_by_itself(group: str, tmp_path: Path) -> None:
    """Every damaged form is an error in its diagnosis too, in time, but for what only a backbone can tell."""
    missed = []
    forms = [(kind, form) for kind in GROUPS[group] for form in kind.forms]
    for number, (kind, form) in enumerate(forms):
        folder = tmp_path / f"case{number}"
        form.make(folder)
        began = time.process_time()
        found = diagnose(f"{folder}/{kind.path}" if kind.path else folder)
        told = {found.kind, *(one.kind for one in found.findings)}
        excused = kind.name in NEEDS_A_BACKBONE or OTHERWISE.get(kind.name) in told
        if (found.ok and not excused) or time.process_time() - began > SLOWEST:
            missed.append((kind.name, form.name, told))
    assert not missed


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
