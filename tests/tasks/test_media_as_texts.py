"""Paths of pictures and sounds are no texts, unless somebody says so."""

from __future__ import annotations

import pytest

from petune import SequenceClassification
from petune.errors import DataError
from petune.tasks.base import Table


def table(column: str, cells: list[str]) -> Table:
    """A table of two columns, the label last."""
    rows = [{column: cell, "label": "ab"[number % 2]} for number, cell in enumerate(cells)]
    return Table(rows, (column, "label"))


@pytest.mark.parametrize(
    ("cells", "task"),
    [(["red/0.png", "blue/1.PNG"], "image-classification"), (["high/0.wav", "low/1.flac"], "audio-classification")],
)
def test_a_task_of_texts_refuses_paths(cells: list[str], task: str) -> None:
    """The label often stands in the path, so they would be learnt all too well; the error names the right task."""
    for column in ("image", "text"):
        with pytest.raises(DataError, match=f"holds paths of files, such as {cells[0]!r}.*{task}"):
            SequenceClassification().learn(table(column, cells))
    assert SequenceClassification(text="image").learn(table("image", cells)).text == "image"


@pytest.mark.parametrize("cells", [["a film", "see b.png"], ["red/0.png", "a text"], ["0.png", "1.wav"]])
def test_texts_that_name_files_are_texts(cells: list[str]) -> None:
    """Only a column in which every cell is one path is refused."""
    assert SequenceClassification().learn(table("text", cells)).text == "text"
