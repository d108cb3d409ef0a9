"""Word and character error rates: of all rows together, the nearest of several right texts, smaller is better."""

from __future__ import annotations

import pytest

from petune.errors import ConfigError, DataError
from petune.metrics import _written
from petune.metrics.base import compute, greater_is_better


def test_rows_count_by_their_words():
    """One wrong word of two, and none of four, are one of six; a mean over rows would say a quarter."""
    figures = compute(["wer"], ["go back", "take the next left"], ["go on", "take the next left"])
    assert figures == {"wer": pytest.approx(1 / 6)}


def test_the_nearest_of_several_right_texts_counts():
    """A row that is right in one of its spellings has no error."""
    assert compute(["wer", "cer"], ["ten metres"], [["ten meters", "ten metres"]]) == {"wer": 0.0, "cer": 0.0}


def test_smaller_is_better():
    """A run that keeps the best by an error rate keeps the smallest."""
    assert not greater_is_better("wer")
    assert not greater_is_better("eval_cer")


def test_what_cannot_be_divided_is_refused():
    """An empty right text, with its row; and a missing jiwer, with the extra."""
    with pytest.raises(DataError, match="row 1"):
        compute(["wer"], ["a", "b"], ["a", " "])


def test_without_jiwer_the_extra_is_named(monkeypatch):
    """The message says how to get it."""
    monkeypatch.setattr(_written, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"petune\[audio\]"):
        compute(["cer"], ["a"], ["a"])
