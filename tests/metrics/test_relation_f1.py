"""Relation F1: TACRED's counting, the class that is left out, and what has nothing to count."""

from __future__ import annotations

import pytest
from sklearn.metrics import f1_score

from petune.metrics.relation_f1 import RelationF1, negative_of

TRUE = ["born", "NA", "lives", "born", "NA", "lives", "NA"]
SAID = ["born", "born", "NA", "lives", "NA", "lives", "NA"]


def test_it_counts_as_the_official_scorer() -> None:
    """Right and not negative, over what is said and over what is true; the macro mean is scikit-learn's."""
    told = RelationF1().compute(predictions=SAID, references=TRUE)
    right, said, true = 2, 4, 4
    assert told["relation_precision"] == right / said
    assert told["relation_recall"] == right / true
    assert told["relation_f1"] == pytest.approx(0.5)
    macro = f1_score(TRUE, SAID, labels=["born", "lives"], average="macro")
    assert told["relation_f1_macro"] == pytest.approx(macro)


@pytest.mark.parametrize("name", ["no_relation", "No Relation", "NA", "Other", "none"])
def test_the_negative_class_is_known_by_its_name(name: str) -> None:
    """However it is written; where several could be meant, the plainer one."""
    assert negative_of(["born", name]) == name
    assert negative_of(["Other", "no_relation"]) == "no_relation"


def test_another_name_or_none_is_told() -> None:
    """By the argument: with an empty one every class counts."""
    assert RelationF1(negative="born").compute(predictions=["born"], references=["born"])["relation_f1"] == 0.0
    assert RelationF1(negative="").compute(predictions=["NA"], references=["NA"])["relation_f1"] == 1.0


def test_without_relations_everything_is_zero() -> None:
    """Nothing to find and nothing found."""
    assert set(RelationF1().compute(predictions=["NA"], references=["NA"]).values()) == {0.0}
