"""Evaluation by generation: the figures of texts are those of what `predict` writes, alone and in fits."""

from __future__ import annotations

from typing import Any

import pytest

from petune import TrainConfig, Tuner
from petune.errors import ConfigError, UnknownNameError
from petune.metrics.base import compute
from petune.training import evaluation
from tests import tiny
from tests.conformance.subjects import blank_task, method, tokenizer
from tests.kinds import KINDS
from tests.language import language_model

TEACHERS = {"loss", "perplexity", "token_accuracy", "token_f1_micro", "token_f1_macro"}
TEXTS = {"bleu", "chrf", "rouge1", "rouge2", "rougeL"}


def fitted(kind: str, family: str, recipe: str = "lora", **knobs: Any) -> Tuner:
    """A tuner that has learnt a little of a kind of task."""
    config = TrainConfig(**{"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "progress": "off", **knobs})
    model = language_model(family, max_position_embeddings=128) if family != "t5" else language_model(family)
    made = Tuner(model, task=blank_task(kind), method=method(recipe), tokenizer=tokenizer(family, kind))
    return made.fit(KINDS[kind].rows(12), KINDS[kind].rows(4), config=config)


def truth_of(row: dict[str, Any]) -> str:
    """The text that should be written."""
    if "messages" in row:
        return str(row["messages"][-1]["content"])
    return str(row["translation"]["xx"] if "translation" in row else [*row.values()][-1])


@pytest.mark.parametrize(
    ("kind", "family", "recipe", "scores"),
    [
        ("dialogue", "qwen3", "lora", TEXTS - {"bleu"}),
        ("instruction", "llama", "prefix", TEXTS - {"bleu"}),
        ("translation", "marian", "bottleneck", TEXTS),
        ("summarization", "bart", "full", TEXTS),
    ],
)
def test_the_figures_are_of_what_a_prediction_writes(kind, family, recipe, scores):
    """Every task that writes; a batch of another size changes nothing, and `generate=False` leaves the texts out."""
    tuner, rows = fitted(kind, family, recipe), KINDS[kind].rows(7)
    figures = tuner.evaluate(rows)
    assert set(figures) == TEACHERS | scores
    written = tuner.predict([KINDS[kind].asked(row) for row in rows])
    wanted = compute(tuner.task.text_metrics(), written, [truth_of(row) for row in rows])
    assert {name: figures[name] for name in scores} == pytest.approx(wanted)
    assert dict(tuner.evaluate(rows, batch_size=2)) == pytest.approx(dict(figures), rel=1e-5)
    assert set(tuner.evaluate(rows, generate=False)) == TEACHERS


def test_a_fit_writes_only_where_it_was_asked_to(monkeypatch):
    """By default the figures are teacher-forced; a metric of texts that is named may choose the best."""
    calls = []
    plain = evaluation.write_answers
    monkeypatch.setattr(evaluation, "write_answers", lambda *given: (calls.append(1), plain(*given))[1])
    tuner = fitted("translation", "t5")
    assert not calls
    assert {name.removeprefix("eval_") for name in tuner.report.history[-1] if name.startswith("eval_")} == TEACHERS
    chosen = fitted("translation", "t5", epochs=3, metrics=("chrf",), metric="chrf")
    assert len(calls) == 3
    scores = [row["eval_chrf"] for row in chosen.report.history if "eval_chrf" in row]
    assert chosen.report.best["chrf"] == max(scores)
    assert chosen.evaluate(KINDS["translation"].rows(4))["chrf"] == pytest.approx(chosen.report.best["chrf"])


def test_writing_in_a_fit_leaves_the_run_as_it_was():
    """The same losses to the bit whether texts were written in between or not, with dropout on."""
    runs = [fitted("dialogue", "qwen3", epochs=3, metrics=metrics, seed=3) for metrics in ((), ("rouge",))]
    losses = [[row["loss"] for row in run.report.history if "loss" in row] for run in runs]
    assert losses[0] == losses[1]


def test_a_function_is_shown_texts():
    """`(y_true, y_pred)` of what people read; it is called at the end of each epoch when a fit is given it."""
    seen = []

    def same(true: list[str], answered: list[str]) -> float:
        seen.append((true, answered))
        return float(sum(a == b for a, b in zip(true, answered, strict=True)))

    tuner = fitted("causal", "llama")
    rows = KINDS["causal"].rows(3)
    figures = tuner.evaluate(rows, metrics=[same])
    assert seen == [([row["completion"] for row in rows], tuner.predict([row["prompt"] for row in rows]))]
    assert "same" in figures and "rouge1" not in figures
    fitted("causal", "llama", epochs=1, metrics=(same,))
    assert all(isinstance(text, str) for text in seen[-1][1])


def test_one_text_is_scored_for_each_row():
    """Knobs that ask for several sequences in a prediction do not in an evaluation."""
    task = type(blank_task("causal"))(max_new_tokens=4, generation={"num_beams": 2, "num_return_sequences": 2})
    tuner = Tuner(language_model("llama"), task=task, tokenizer=tiny.tokenizer("llama"))
    tuner.fit(KINDS["causal"].rows(8), config=TrainConfig(epochs=1, progress="off"))
    rows = KINDS["causal"].rows(3)
    assert [len(texts) for texts in tuner.predict([row["prompt"] for row in rows])] == [2] * 3
    assert 0 <= tuner.evaluate(rows, metrics=["chrf"])["chrf"] <= 100


def test_texts_without_a_prompt_cannot_be_compared():
    """Told before training, and of an unknown metric as well."""
    rows = [{"text": row["text"]} for row in tiny.rows(6)]
    config = TrainConfig(epochs=1, progress="off", metrics=("rouge",))
    tuner = Tuner(
        language_model("llama"), task=type(blank_task("causal"))(max_new_tokens=4), tokenizer=tiny.tokenizer("llama")
    )
    with pytest.raises(ConfigError, match="The metric rouge compares texts, and these rows have none"):
        tuner.fit(rows, rows, config=config)
    with pytest.raises(UnknownNameError, match="Did you mean 'rouge'"):
        fitted("causal", "llama", metrics=("rogue",))
    with pytest.raises(UnknownNameError, match="'chrf'"):
        fitted("causal", "llama", metrics=("rouge", "chrf"), metric="chrff")
