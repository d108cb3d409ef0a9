"""Every kind of bad, odd and unusual training data of the catalogue gets what it should."""

from __future__ import annotations

import pytest

from benchmarks.faults import bad_data
from benchmarks.faults.bad_data import KINDS, RIGHT, Outcome, judged, tried
from benchmarks.faults.data_kinds import Kind
from petune.errors import DataError

ALL = [(verdict, kind) for verdict, kinds in KINDS.items() for kind in kinds]
BLANK = Kind("blank", lambda folder: None, "row 6", "empty")
CLEAR = DataError("row 6 is empty.", fix="Fill it in.")


@pytest.mark.parametrize(("verdict", "kind"), ALL, ids=[f"{verdict}: {kind.name}" for verdict, kind in ALL])
def test_data_get_what_they_should(verdict, kind, tmp_path):
    """Refused before the first step with place, cause and fix; or trained with one warning; or without a word."""
    outcome = tried(kind, tmp_path)
    assert judged(verdict, kind, outcome) == RIGHT[verdict], outcome


def test_the_catalogue_is_as_large_as_it_says():
    """At least 63 kinds to refuse, 12 to warn of and 14 to accept, each with a name of its own."""
    assert [len(kinds) >= least for kinds, least in zip(KINDS.values(), (63, 12, 14), strict=True)] == [True] * 3
    assert len({kind.name for _, kind in ALL}) == len(ALL)


@pytest.mark.parametrize(
    ("verdict", "outcome", "found"),
    [
        ("refuse", Outcome(CLEAR), "clear"),
        ("refuse", Outcome(CLEAR, steps=1), "late"),
        ("refuse", Outcome(IndexError("row 6 is empty")), "obscure"),
        ("refuse", Outcome(DataError("A row is empty.", fix="Fill it in.")), "obscure"),
        ("refuse", Outcome(DataError("row 6 is bad.", fix="Mend it.")), "obscure"),
        ("refuse", Outcome(DataError("row 6 is empty.")), "obscure"),
        ("refuse", Outcome(steps=1), "silent"),
        ("refuse", Outcome(steps=1, said=["row 6 is empty"]), "warned"),
        ("warn", Outcome(steps=1, said=["row 6 is empty"]), "one warning"),
        ("warn", Outcome(steps=1, said=["row 6 is empty"] * 2), "several warnings"),
        ("warn", Outcome(steps=1, said=["something is empty"]), "obscure warning"),
        ("warn", Outcome(steps=1), "silent"),
        ("accept", Outcome(steps=1), "no word"),
        ("accept", Outcome(), "silent"),
        ("accept", Outcome(steps=1, said=["row 6 is empty"]), "warned"),
    ],
)
def test_the_judge_tells_outcomes_apart(verdict, outcome, found):
    """The control: what a careless library does is not taken for right."""
    assert judged(verdict, BLANK, outcome) == found


def test_a_run_counts_what_it_drew(monkeypatch):
    """Some kinds, drawn by the seed, and a careless fit among them is counted and named."""
    counts = bad_data.run(6, seed=1)
    assert counts["kinds"] == 6 and counts["failures"] == 0 and not counts["wrong"]
    monkeypatch.setattr(bad_data, "tried", lambda kind, place: Outcome(steps=1))
    careless = bad_data.run(6, seed=1)
    assert careless["failures"] == sum(careless[verdict]["kinds"] for verdict in ("refuse", "warn"))
