"""Each row's own loss, and the rows that a report chooses to look at."""

from __future__ import annotations

import pytest

from petune.data.sources import read
from petune.errors import AdapterError
from petune.report.confusion import confusion
from petune.report.hard_rows import hard_rows
from petune.report.looking import MOST_TRAINING_ROWS, Choice, chosen, look
from petune.training.fitting import Given
from tests import tiny
from tests.kinds import KINDS
from tests.report.test_page import CONFIG, tuner_of
from tests.tuners import ROWS, fresh

WHOLE = ("single", "multi", "regression", "tokens", "causal", "seq2seq")
"""Kinds whose loss is a sum over rows that know nothing of each other."""


@pytest.mark.parametrize("kind", WHOLE)
def test_the_losses_of_the_rows_are_the_loss_of_the_evaluation(kind):
    """Weighted by what each row holds they add up to the figure; a row alone has the loss that it has in a batch."""
    rows = KINDS[kind].rows(20)
    tuner = tuner_of(kind).fit(rows, config=CONFIG)
    looked = look(tuner._work, Choice(read(rows), "rows"))
    alone = [tuner.evaluate([row])["loss"] for row in rows[:4]] if kind != "tokens" else []
    assert looked.losses[: len(alone)] == pytest.approx(alone, abs=1e-5)
    assert len(looked.losses) == 20 == len(looked.rows)
    assert min(looked.losses) <= looked.figures["loss"] <= max(looked.losses)
    if kind in ("single", "multi", "regression"):
        assert sum(looked.losses) / 20 == pytest.approx(looked.figures["loss"], abs=1e-6)
    texts = KINDS[kind].task().generates
    assert len(looked.answered) == (0 if texts else 20)
    hardest = hard_rows(tuner.adapter.task, looked)
    assert [row.loss for row in hardest] == sorted(looked.losses, reverse=True)
    assert all(row.cells and row.cells[0][1] and (row.answered == "") == texts for row in hardest if row.given)


def test_rows_of_tags_show_the_words_that_differ():
    """The words are named with the tags that were given and answered; a row of long words keeps its order."""
    rows = tiny.tag_rows(12)
    tuner = tuner_of("tokens").fit(rows, config=CONFIG)
    looked = look(tuner._work, Choice(read(rows), "rows"))
    for row, given, answered in zip(rows, looked.given, looked.answered, strict=True):
        assert given == row["tags"] and len(answered) == len(row["tokens"])
    shown = hard_rows(tuner.adapter.task, looked)[0]
    index = looked.losses.index(shown.loss)
    trios = zip(rows[index]["tokens"], looked.given[index], looked.answered[index], strict=True)
    wrong = [(word, one) for word, one, other in trios if one != other]
    assert wrong and shown.given == ", ".join(f"{word}: {tag}" for word, tag in wrong)


def test_the_rows_of_the_fit_are_chosen_again():
    """Held-out rows are the same ones, evaluation data come before training data, and those are thinned."""
    rows = tiny.rows(40)
    tuner = fresh().fit(rows, eval_data=0.25, config=CONFIG)
    held = chosen(tuner._work, tuner._given, None)
    assert held is not None and len(held.table) == 10 and not held.notices
    looked = look(tuner._work, held)
    assert looked.figures["loss"] == pytest.approx(tuner.report.best["loss"], abs=1e-6)
    task = tuner.task
    given = Given(task, rows, ROWS, CONFIG)
    assert chosen(tuner._work, given, None).words == "the evaluation rows"
    many = chosen(tuner._work, Given(task, tiny.rows(MOST_TRAINING_ROWS + 500), None, CONFIG), None)
    assert len(many.table) == MOST_TRAINING_ROWS and "2,000 of 2,500 training rows" in many.words
    assert chosen(tuner._work, None, None) is None


def test_confusions_count_every_answer():
    """Tags are counted by word; sets and numbers have no matrix; of many labels the worst are shown."""
    tags = confusion([["O", "B-X"], ["O"]], [["O", "O"], ["O"]], ["B-X", "O"])
    assert tags is not None and tags.counts == [[0, 1], [0, 2]] and tags.pairs == [("B-X", "O", 1)]
    assert confusion([["a"], ["a", "b"]], [["a"], ["b"]], ["a", "b"]) is None
    assert confusion([0.5], [0.25], []) is None
    labels = [f"{index:02}" for index in range(20)]
    given = [*labels, "19", "19", "18"]
    many = confusion(given, [*labels, "18", "18", "19"], labels)
    assert many is not None and many.left_out == 8 and {"18", "19"} <= set(many.labels)
    assert many.pairs[0] == ("19", "18", 2) and sum(map(sum, many.counts)) == 12 + 3


def test_a_plot_has_the_curves_that_there_are(tmp_path):
    """Losses, the chosen figure and the rate; a tuner without a history has nothing to draw."""
    tuner = fresh().fit(ROWS, eval_data=0.25, config=CONFIG)
    figure = tuner.plot()
    assert [axes.get_title() for axes in figure.axes] == ["Loss", "accuracy", "Learning rate"]
    steps = [row for row in tuner.report.history if "loss" in row]
    drawn = figure.axes[2].lines[0]
    assert list(drawn.get_ydata()) == [row["learning_rate"] for row in steps]
    assert [axes.get_title() for axes in fresh().fit(ROWS, config=CONFIG).plot().axes] == ["Loss", "Learning rate"]
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    tuner._history.clear()
    with pytest.raises(AdapterError, match="no history"):
        tuner.plot()


def test_a_notebook_sees_a_tuner_at_every_time():
    """Before a fit what there is, after it what was learnt and how; plan and reports have tables of their own."""
    tuner = fresh()
    assert "nothing fitted yet" in tuner._repr_html_() and "bert" in tuner._repr_html_()
    tuner.fit(ROWS, eval_data=0.25, config=CONFIG)
    shown = tuner._repr_html_()
    assert "bad, good" in shown and "<th>eval_accuracy</th>" in shown and "Held out 2 of 8 rows" in shown
    assert "<table>" in tuner.plan(ROWS, CONFIG, timed=False)._repr_html_()
    assert "<table>" in tuner.evaluate(ROWS)._repr_html_()
