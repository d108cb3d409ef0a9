"""SQuAD's own nested files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from petune.data.sources import read
from petune.errors import DataError


def squad(**changes: Any) -> dict[str, Any]:
    """A file of version 2.0 with one question that has two answers and one that has none."""
    asked = {"id": "a1", "question": "Who?", "answers": [{"text": "Anna", "answer_start": 0}] * 2, **changes}
    never = {"id": "a2", "question": "Why?", "answers": [], "plausible_answers": [], "is_impossible": True}
    paragraph = {"context": "Anna left.", "qas": [asked, never]}
    return {"version": "v2.0", "data": [{"title": "People", "paragraphs": [paragraph]}]}


@pytest.mark.parametrize("indent", [None, 2])
def test_a_nested_file_becomes_a_row_per_question(tmp_path: Path, indent: int | None) -> None:
    """On one line or on many; a row knows its article, and impossible questions have no answers."""
    (tmp_path / "dev.json").write_text(json.dumps(squad(), indent=indent), encoding="utf-8")
    table = read(tmp_path / "dev.json")
    assert table.columns == ("id", "title", "context", "question", "answers")
    assert [row["answers"] for row in table.rows] == [
        {"text": ["Anna", "Anna"], "answer_start": [0, 0]},
        {"text": [], "answer_start": []},
    ]
    assert table.place(1) == "dev.json, article 'People', paragraph 0, question 1"


def test_a_part_that_is_missing_is_told_with_its_place(tmp_path: Path) -> None:
    """The form is in the message."""
    made = squad()
    del made["data"][0]["paragraphs"][0]["qas"][0]["question"]
    (tmp_path / "dev.json").write_text(json.dumps(made), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"article 'People', paragraph 0, question 0: there is no 'question'.*paragraphs"
    ):
        read(tmp_path / "dev.json")


def test_lines_that_speak_of_paragraphs_stay_lines(tmp_path: Path) -> None:
    """Rows with a column of that name are rows as ever."""
    (tmp_path / "rows.jsonl").write_text('{"paragraphs": 1, "data": 2}\n{"paragraphs": 2, "data": 3}\n')
    assert len(read(tmp_path / "rows.jsonl")) == 2
