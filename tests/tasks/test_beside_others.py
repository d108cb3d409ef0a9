"""The newer tasks where several things happen at once: joint fits, two processes, rows padded on the left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petune import AdaptedModel, LoRA, TrainConfig, Tuner, fit_many
from tests import tiny
from tests.kinds import KINDS

NEW = ("answers", "choices", "partners", "likeness")
QUICK = TrainConfig(epochs=2, batch_size=4, learning_rate=1e-2, backbone_dropout=False, progress="off")


def tuner(kind: str, backbone: Any, **given: Any) -> Tuner:
    """One of a kind, on a tiny BERT."""
    return Tuner(backbone, task=KINDS[kind].task(), method=LoRA(rank=2), name=kind, **given)


def losses(one: Tuner) -> list[float]:
    """Of every step."""
    return [row["loss"] for row in one.report.history if "loss" in row]


def test_joint_fits_learn_what_each_learns_alone() -> None:
    """All four beside a classifier, on one backbone that runs once for all of them."""
    tokenizer = tiny.tokenizer("bert")
    kinds = (*NEW, "single")
    alone = [
        tuner(kind, tiny.backbone("bert", dropout=0.0), tokenizer=tokenizer).fit(KINDS[kind].rows(12), config=QUICK)
        for kind in kinds
    ]
    shared = tiny.backbone("bert", dropout=0.0)
    jobs = [(tuner(kind, shared, tokenizer=tokenizer), KINDS[kind].rows(12), None, QUICK) for kind in kinds]
    for one, together in zip(alone, fit_many(jobs), strict=True):
        assert losses(together) == pytest.approx(losses(one), rel=1e-3)


@pytest.mark.parametrize("kind", ["answers", "partners"])
def test_two_processes_have_the_figures_of_one(kind: str, tmp_path: Path) -> None:
    """Evaluations between epochs are dealt out and gathered: several windows or texts a row make no difference."""
    one = tuner(kind, tiny.folder("bert", tmp_path))
    one.fit(KINDS[kind].rows(12), KINDS[kind].rows(10), QUICK, processes=2)
    figures = one.evaluate(KINDS[kind].rows(10), batch_size=4)
    assert {name: value for name, value in one.report.best.items() if name in figures} == pytest.approx(
        dict(figures), abs=1e-5
    )


def test_tags_and_answers_are_right_beside_a_tokenizer_that_pads_on_the_left() -> None:
    """Their positions count from the first piece, so that their rows are padded on the right in shared batches too."""
    tokenizer = tiny.tokenizer("gpt2")
    tokenizer.padding_side = "left"
    backbone = tiny.backbone("gpt2")
    model = AdaptedModel(backbone, tokenizer=tokenizer)
    asked: list[Any] = []
    wanted: list[Any] = []
    names: list[str] = []
    for kind in ("tokens", "answers"):
        one = tuner(kind, backbone, tokenizer=tokenizer).fit(KINDS[kind].rows(12), config=QUICK)
        model.add(kind, one)
        some = [KINDS[kind].asked(row) for row in KINDS[kind].rows(6)]
        asked, wanted, names = [*asked, *some], [*wanted, *one.predict(some)], [*names, *[kind] * len(some)]
    order = np.random.default_rng(1).permutation(len(asked))
    found = model.predict([asked[i] for i in order], adapters=[names[i] for i in order])
    assert found == [wanted[i] for i in order]
