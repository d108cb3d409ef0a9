"""The row that a task shows on model cards is one that it reads."""

from __future__ import annotations

import pytest

from petune.tasks.base import Table
from petune.tasks.multiple_choice import MultipleChoice
from petune.tasks.relation_extraction import RelationExtraction
from petune.tasks.sequence_classification import SequenceClassification
from tests import tiny

SPAN = {"head": {"start": 0, "end": 3, "type": "who"}, "tail": {"start": 13, "end": 17, "type": "where"}}
CASES = {
    "pairs": (SequenceClassification(text="one", text_pair="two"), {"one": "a", "two": "b", "label": ["x", "y"]}),
    "options in columns": (MultipleChoice(), {"question": "a", "ending0": "b", "ending1": "c", "label": [0, 1]}),
    "options in a list": (MultipleChoice(), {"question": "a", "options": ["b", "c"], "label": [0, 1]}),
    "spans": (RelationExtraction(), {"text": "Ann lives in Oslo", **SPAN, "relation": ["x", "y"]}),
    "typed": (RelationExtraction(typed=True), {"text": "Ann lives in Oslo", **SPAN, "relation": ["x", "y"]}),
    "ends that belong to it": (
        RelationExtraction(inclusive_ends=True),
        {"text": "Ann lives in Oslo.", **SPAN, "relation": ["x", "y"]},
    ),
    "marked": (RelationExtraction(), {"text": "[E1]Ann[/E1] is in [E2]Oslo[/E2]", "relation": ["x", "y"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_specimen_is_a_row(case):
    """`table` takes it as it stands, and `encode` makes an example of it."""
    task, row = CASES[case]
    answer = list(row)[-1]
    rows = [{**row, answer: label} for label in row[answer]]
    learnt = task.learn(Table(rows, tuple(row)))
    made = learnt.encode(learnt.table([learnt.specimen()]), tiny.tokenizer("bert"), longest=64, labelled=False)
    assert len(made.examples) == 1 and not made.notices
