"""Held-out parts, shared texts, fingerprints."""

from __future__ import annotations

import datetime
import random
from collections import Counter

import numpy as np
import pytest

from petune.data.splitting import fingerprint, hold_out, overlap
from petune.errors import ConfigError, DataError, UnknownNameError
from petune.tasks.base import Table


def _table(labels: list[str]) -> Table:
    rows = [{"id": i, "label": label} for i, label in enumerate(labels)]
    return Table(rows, ("id", "label"), "the data", lambda index: f"line {index + 2}")


def _strata(labels: list[str]) -> list[set[str]]:
    return [{label} for label in labels]


def _ids(table: Table) -> list[int]:
    return [row["id"] for row in table.rows]


@pytest.mark.parametrize("seed", range(40))
def test_stratified_parts_keep_every_promise(seed):
    """Partition, order, size, shares within one row, two-row classes on both sides, single rows train."""
    rng = random.Random(seed)
    counts = {f"c{i}": rng.choice([1, 2, 3, 10, 60]) for i in range(rng.randint(2, 8))} | {"big": 40}
    labels = [label for label, count in counts.items() for _ in range(count)]
    rng.shuffle(labels)
    fraction = rng.choice([0.1, 0.2, 0.33, 0.5])
    table = _table(labels)
    train, held = hold_out(table, fraction, seed, _strata(labels))

    assert sorted(_ids(train) + _ids(held)) == list(range(len(labels)))
    assert _ids(train) == sorted(_ids(train))
    assert _ids(held) == sorted(_ids(held))
    assert abs(len(held) - fraction * len(labels)) <= 0.5
    taken = Counter(row["label"] for row in held.rows)
    several = [label for label, count in counts.items() if count > 1]
    for label, count in counts.items():
        assert taken[label] < count
        if count > 1 and len(held) >= len(several):
            assert taken[label] >= 1
    assert [held.place(i) for i in range(len(held))] == [f"line {i + 2}" for i in _ids(held)]


def test_shares_are_those_of_the_table():
    """Balanced classes are held out in equal numbers, rare ones in proportion."""
    labels = ["a"] * 600 + ["b"] * 300 + ["c"] * 100
    _, held = hold_out(_table(labels), 0.1, 0, _strata(labels))
    assert Counter(row["label"] for row in held.rows) == {"a": 60, "b": 30, "c": 10}


def test_more_classes_than_held_out_rows_keeps_the_size():
    """The asked size wins; which classes are held out depends on the seed, not on the alphabet."""
    labels = [f"c{i:02}" for i in range(50) for _ in range(2)]
    chosen = [{row["label"] for row in hold_out(_table(labels), 0.1, seed, _strata(labels))[1].rows} for seed in (0, 1)]
    assert [len(part) for part in chosen] == [10, 10]
    assert chosen[0] != chosen[1]


def test_thousands_of_classes_split_at_once():
    """Every one of 5,000 classes of two rows is on both sides of a half, in well under a minute."""
    labels = [str(i // 2) for i in range(10_000)]
    train, held = hold_out(_table(labels), 0.5, 0, _strata(labels))
    assert {row["label"] for row in train.rows} == {row["label"] for row in held.rows} == set(labels)


@pytest.mark.parametrize("strata", [True, False])
def test_the_seed_alone_decides(strata):
    """Same seed, same parts; another seed, others; global generators are neither read nor moved."""
    labels = [str(i % 3) for i in range(60)]
    keys = _strata(labels) if strata else None
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = hold_out(_table(labels), 0.2, 7, keys)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    random.random()
    assert _ids(hold_out(_table(labels), 0.2, 7, keys)[1]) == _ids(first[1])
    assert _ids(hold_out(_table(labels), 0.2, 8, keys)[1]) != _ids(first[1])
    assert len(first[1]) == 12


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, 1, float("nan"), "0.1", True])
def test_a_fraction_must_lie_between_0_and_1(fraction):
    """Anything else is a wrong knob."""
    with pytest.raises(ConfigError, match="between 0 and 1"):
        hold_out(_table(["a"] * 10), fraction, 0, None)


@pytest.mark.parametrize(
    ("labels", "fraction", "keys", "words"),
    [
        (["a"], 0.5, None, "too few rows to split: 1"),
        (["a"] * 4, 0.1, None, "no row to hold out"),
        (["a"] * 4, 0.9, None, "no row for training"),
        (["a", "b", "c"], 0.5, ["a", "b", "c"], "no row to hold out"),
        (["a"] * 4, 0.5, ["a"] * 3, "3 strata were given for 4 rows"),
    ],
)
def test_parts_that_would_be_empty_are_refused(labels, fraction, keys, words):
    """Too few rows, and strata that do not fit, are errors of the data."""
    with pytest.raises(DataError, match=words):
        hold_out(_table(labels), fraction, 0, keys and _strata(keys))


@pytest.mark.parametrize("seed", range(40))
def test_every_label_of_a_row_of_several_trains(seed):
    """Rows of any number of labels: a partition near the size that was asked for, and each label is in training."""
    rng = random.Random(seed)
    names = ["O"] * 40 + ["a", "b"] * 8 + [f"rare{i}" for i in range(6)]
    rows = [set(rng.sample(names, rng.randint(0, 4))) for _ in range(60)]
    train, held = hold_out(_table([""] * 60), 0.2, seed, rows)
    assert sorted(_ids(train) + _ids(held)) == list(range(60))
    assert 4 <= len(held) <= 12
    assert set().union(*rows) == set().union(*(rows[index] for index in _ids(train)))


def test_a_row_that_alone_holds_a_frequent_label_is_given_back():
    """A label need not be the rarest one of any of its rows to be kept in training."""
    rows = [{"x", "a"}, {"x", "b"}, {"a"}, {"a", "c"}, {"b"}, {"b", "c"}, {"c"}, {"c"}]
    for seed in range(30):
        train, _ = hold_out(_table([""] * 8), 0.5, seed, rows)
        assert {"x", "a", "b", "c"} == set().union(*(rows[index] for index in _ids(train)))


def test_overlap_counts_rows_that_differ_only_in_case_and_space():
    """Texts and token lists are compared without case and white space; missing values never match."""
    train = Table([{"t": " Good\n film"}, {"t": None}, {"t": ["A", "b c"]}, {"t": 3}], ("t",))
    held = [{"t": "good FILM"}, {"t": "good  film "}, {"t": None}, {"t": ["a", "B  C"]}, {"t": "a b c"}, {"t": "3"}]
    assert overlap(train, Table(held, ("t",)), "t") == [0, 1, 3, 5]
    assert overlap(train, Table([{"t": float("nan")}], ("t",)), "t") == []
    with pytest.raises(UnknownNameError, match="no column 'tt'"):
        overlap(train, Table(held, ("t",)), "tt")


def test_fingerprint_follows_content_and_order():
    """Key order and the form of the source mean nothing; values, types and row order do."""
    rows = [{"text": "é", "label": 1, "tags": ["x"]}, {"text": "b", "label": None, "tags": []}]
    base = fingerprint(Table(rows, ("text", "label", "tags")))
    assert len(base) == 64
    assert base == fingerprint(Table([dict(reversed(row.items())) for row in rows], ()))
    changed = [rows[::-1], rows[:1], [rows[0] | {"label": "1"}, rows[1]], [rows[0] | {"text": "e"}, rows[1]]]
    assert len({base, *(fingerprint(Table(other, ())) for other in changed)}) == 5


def test_fingerprint_holds_for_values_beyond_json():
    """Dates, bytes and arrays count by content, other objects by their type: never by an address."""
    rows = lambda day: [{"d": datetime.date(2026, 1, day), "b": b"\xff", "a": np.float32(0.5), "n": float("nan")}]  # noqa: E731
    assert fingerprint(Table(rows(1), ())) == fingerprint(Table(rows(1), ()))
    assert fingerprint(Table(rows(1), ())) != fingerprint(Table(rows(2), ()))
    assert fingerprint(Table([{"o": object()}], ())) == fingerprint(Table([{"o": object()}], ()))
