"""Answers beside rows, for every kind of task: the file that was learnt from can be answered as it is."""

from __future__ import annotations

import json
import logging
from functools import cache
from typing import Any

import pytest

from petune import LoRA, TrainConfig, Tuner
from petune.cli.answering import Answering
from petune.cli.streams import Chunk, cell
from petune.cli.usage import UsageError
from petune.errors import DataError
from tests import tiny
from tests.kinds import KINDS
from tests.language import language_model


@cache
def tuner(kind: str) -> Tuner:
    """A tuner that has made one step."""
    known = KINDS[kind]
    family, task = known.families[0], known.task()
    whole = kind == "prompt_class" or (task.generates and task.reads == "tokenizer")
    backbone = language_model(family) if whole else tiny.backbone(family)
    made = Tuner(backbone, task=task, method=LoRA(rank=2), tokenizer=known.reads(family))
    return made.fit(known.rows(8), config=TrainConfig(epochs=1, batch_size=64, progress="off"))


def answered(kind: str, rows: list[dict[str, Any]], every: bool = False) -> list[dict[str, Any]]:
    """Rows with the columns of their answers."""
    answering = Answering(tuner(kind), "said", every=every, batch_size=8, source="rows.csv")
    return answering.columns_of(Chunk(rows, list(range(2, len(rows) + 2))))


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_that_are_learnt_from_are_answered(kind: str) -> None:
    """Each row keeps its columns and gets an answer, in whatever form training takes them."""
    rows = KINDS[kind].rows(2)
    found = answered(kind, rows)
    assert len(found) == len(rows) and all("said" in row for row in found)
    for row, given in zip(found, rows, strict=True):
        assert all(row[key] is value for key, value in given.items())


@pytest.mark.parametrize("kind", ["answers", "choices", "translation", "dialogue"])
def test_what_a_table_holds_is_answered_alike(kind: str) -> None:
    """Cells of a csv file hold dicts and lists as JSON; the answers are those of the rows themselves."""
    rows = KINDS[kind].rows(2)
    written = [{key: cell(value) for key, value in row.items()} for row in rows]
    assert [row["said"] for row in answered(kind, written)] == [row["said"] for row in answered(kind, rows)]


def test_an_answer_out_of_a_context_has_its_place() -> None:
    """With its probability; with all probabilities there are the next best ones too, all of them JSON."""
    rows = KINDS["answers"].rows(3)
    for row in answered("answers", rows, every=True):
        assert row["context"][row["said_start"] : row["said_end"]] == row["said"] and 0 <= row["said_probability"] <= 1
        first, *others = row["said_probabilities"]
        assert set(first) == {"text", "probability", "start", "end"}
        assert all(first["probability"] >= other["probability"] for other in others)
        json.dumps(row)
    assert "said_probabilities" not in answered("answers", rows)[0]
    with pytest.raises(UsageError, match="'said_start'"):
        answered("answers", [{**rows[0], "said_start": 3}])


def test_options_of_a_row_have_their_shares() -> None:
    """In the order of the options, only where all probabilities are asked for."""
    rows = KINDS["choices"].rows(3)
    for row in answered("choices", rows, every=True):
        shares = row["said_probabilities"]
        assert sum(shares) == pytest.approx(1, abs=1e-5) and len(shares) == len(row["options"])
        assert row["options"][shares.index(max(shares))] == row["said"] and max(shares) == row["said_probability"]
    assert "said_probabilities" not in answered("choices", rows)[0]


def test_a_column_that_is_not_there_is_told_of_the_nested_form_too() -> None:
    """With the columns there are, and with the line of a row that lacks its language."""
    with pytest.raises(DataError, match=r"rows.csv has no column 'en'. Its columns are 'text'"):
        answered("translation", [{"text": "a film"}])
    with pytest.raises(DataError, match=r"rows.csv, line 3: the column 'translation' has no language 'en'"):
        answered("translation", [*KINDS["translation"].rows(1), {"translation": {"xx": "good"}}])


def test_a_reply_at_the_end_is_left_away_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Conversations of a file to train on are answered like those before their last reply."""
    rows = KINDS["dialogue"].rows(4)
    before = [{"messages": row["messages"][:-1]} for row in rows]
    answering = Answering(tuner("dialogue"), "said", every=False, batch_size=8, source="rows.jsonl")
    with caplog.at_level(logging.WARNING, "petune"):
        found = [row for some in (rows[:2], rows[2:]) for row in answering.columns_of(Chunk(some, [1, 2]))]
    assert [row["said"] for row in found] == [row["said"] for row in answered("dialogue", before)]
    assert [row["messages"] for row in found] == [row["messages"] for row in rows]
    assert caplog.text.count("answered without that reply") == 1
