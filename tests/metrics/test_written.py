"""BLEU, chrF and ROUGE: the figures of the packages that count, several right texts, other scripts, the extra."""

from __future__ import annotations

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf

from petune.errors import ConfigError
from petune.metrics import _written
from petune.metrics.base import compute, greater_is_better, scores_texts
from petune.metrics.bleu import Bleu

WRITTEN = ["The cat sat on a mat.", "rain, all day long", "no"]
RIGHT = ["The cat sat on the mat.", "It rained all day long", "yes"]


def test_the_figures_are_those_of_the_packages():
    """sacrebleu's corpus scores, and the mean over the rows of rouge-score's F1."""
    found = compute(["bleu", "chrf", "rouge"], WRITTEN, RIGHT)
    assert found["bleu"] == pytest.approx(corpus_bleu(WRITTEN, [RIGHT]).score)
    assert found["chrf"] == pytest.approx(corpus_chrf(WRITTEN, [RIGHT]).score)
    for kind in ("rouge1", "rouge2", "rougeL"):
        scorer = RougeScorer([kind])
        rows = [scorer.score(right, written)[kind].fmeasure for written, right in zip(WRITTEN, RIGHT, strict=True)]
        assert found[kind] == pytest.approx(sum(rows) / 3)
    assert 0 < found["rouge2"] < found["rouge1"] < 1


def test_a_row_may_have_several_right_texts():
    """Rows with different numbers of them; the best one counts for ROUGE, all of them do for the others."""
    several = [[RIGHT[0]], ["it rained", WRITTEN[1]], ["yes", "no", "perhaps"]]
    found = compute(["bleu", "chrf", "rouge"], WRITTEN, several)
    assert found["rouge1"] == pytest.approx((compute(["rouge"], WRITTEN[:1], RIGHT[:1])["rouge1"] + 2) / 3)
    alone = compute(["bleu", "chrf"], WRITTEN, RIGHT)
    assert found["bleu"] > alone["bleu"] and found["chrf"] > alone["chrf"]


def test_every_script_has_words():
    """rouge-score alone scores any script but the Latin one 0; Chinese is counted by its characters."""
    assert compute(["rouge"], ["мы видели фильм"], ["мы видели кино"])["rouge1"] == pytest.approx(2 / 3)
    assert compute(["rouge"], ["我们看"], ["我们去"])["rouge1"] == pytest.approx(2 / 3)
    assert compute(["rouge"], ["Größe, Öl"], ["größe öl"])["rougeL"] == 1.0


def test_nothing_written_scores_nothing():
    """An empty text is wrong, and breaks nothing."""
    found = compute(["bleu", "chrf", "rouge"], ["", ""], ["a film", "rain"])
    assert set(found.values()) == {0.0}


def test_a_metric_with_settings_stands_in_for_its_name():
    """Chinese needs another way to words; the one handed over is computed, the name is not."""
    written, right = ["我们昨天看了一部电影"], ["我们昨天看了一部老电影"]
    plain, chinese = compute(["bleu"], written, right), compute([Bleu(tokenize="zh")], written, right)
    assert plain["bleu"] < 1e-9 < chinese["bleu"]
    assert compute(["bleu", Bleu(tokenize="zh")], written, right) == chinese
    assert compute([Bleu(tokenize="zh"), "bleu"], written, right) == chinese


def test_who_needs_texts():
    """petune's own metrics say so; larger is better but for loss and perplexity."""
    assert [scores_texts(name) for name in ("bleu", "chrf", "rouge", "token-accuracy")] == [True, True, True, False]
    assert [greater_is_better(key) for key in ("bleu", "rougeL", "perplexity", "eval_perplexity")] == [1, 1, 0, 0]
    with pytest.raises(ConfigError, match="The metric bleu cannot score single labels"):
        compute(["bleu"], ["a"], ["b"], ["a", "b"])


@pytest.mark.parametrize(("name", "package"), [("bleu", "sacrebleu"), ("chrf", "sacrebleu"), ("rouge", "rouge-score")])
def test_the_extra_is_named(name, package, monkeypatch):
    """Without the package: which extra brings it, and how to do without."""
    monkeypatch.setattr(_written, "find_spec", lambda package: None)
    words = rf"The metric {name} needs {package}.*'generation'.*pip install 'petune\[generation\]'.*generate=False"
    with pytest.raises(ConfigError, match=words):
        compute([name], ["a"], ["a"])
