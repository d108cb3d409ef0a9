"""Laws 3, 4, 10, 11, 12, 13 and 17: what a whole run by the Tuner keeps, saves, learns and repeats."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from petune import AdaLoRA, AdaptedModel, TrainConfig, Tuner
from petune.training.callbacks import Callback
from tests import tiny
from tests.conformance.subjects import (
    HEADLESS,
    batch,
    blank_task,
    ids,
    method,
    rows,
    same,
    snapshot,
    tokenizer,
)
from tests.covering import CASES, METHODS, Case
from tests.kinds import KINDS

RATES = {"full": 2e-3, "head": 3e-2}
PROMPTED = {"single": 3e-2, "choices": 7e-2}
"""A prompt's rates beside heads that a larger one throws about."""


def rate_of(case: Case) -> float:
    """A learning rate that suits a run of 18 steps; a prompt, or a prefix without a head, needs a large one."""
    if case.method == "prompt-tuning":
        return PROMPTED.get(case.task, 1e-1)
    if case.method == "prefix" and case.task in HEADLESS:
        return 1e-1
    if case.method == "head" and case.task == "regression":
        return 1e-1
    return RATES.get(case.method, 1e-2)


QUIET = {"progress": "off", "batch_size": 8}


def tuner_for(case: Case, backbone: torch.nn.Module | None = None, **knobs: Any) -> Tuner:
    """A tuner of one case on a tiny backbone."""
    made = backbone if backbone is not None else tiny.backbone(case.family)
    return Tuner(
        made,
        task=blank_task(case.task),
        method=method(case.method, **knobs),
        tokenizer=tokenizer(case.family, case.task),
    )


def answers(tuner: Tuner, case: Case) -> list[np.ndarray]:
    """Probabilities of rows of different lengths; where there are no classes the loss, and what is answered."""
    table = rows(case.task, 5)
    texts = [KINDS[case.task].asked(row) for row in table]
    found = tuner.predict_proba(texts) if tuner.classes_ else (tuner.evaluate(table)["loss"], *tuner.predict(texts))
    return [np.asarray(row) for row in found]


def equal(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    """Whether two lists of arrays are equal to the bit."""
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def flags(model: torch.nn.Module) -> list[object]:
    """Modes, gradient flags and dropout of every module."""
    return [
        (path, module.training, getattr(module, "p", None), [p.requires_grad for p in module.parameters(recurse=False)])
        for path, module in model.named_modules()
    ]


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_a_run_learns_keeps_the_backbone_and_is_saved_whole(case, tmp_path):
    """Laws 3, 4, 10 and 17: the loss falls, backbone and flags stay, the saved adapter answers the same."""
    backbone = tiny.backbone(case.family)
    # A mixed state, as a user may leave it: some modules train, some parameters are frozen already.
    list(backbone.children())[-1].train()
    next(backbone.parameters()).requires_grad_(False)
    before, state = snapshot(backbone), flags(backbone)
    tuner = tuner_for(case, backbone)
    # A head that scores options one by one hardly sees at first what a prompt changes in all of them.
    epochs = 27 if (case.method, case.task) == ("prompt-tuning", "choices") else 9
    config = TrainConfig(epochs=epochs, learning_rate=rate_of(case), backbone_dropout=False, warmup_ratio=0.0, **QUIET)
    tuner.fit(rows(case.task, 16), config=config)
    losses = [row["loss"] for row in tuner.report.history if "loss" in row]
    # Four vectors before a text move less of an untrained language model than what acts inside of it.
    share = 0.97 if case.method == "prompt-tuning" else 0.95
    assert np.mean(losses[-4:]) < share * np.mean(losses[:2])
    said = answers(tuner, case)
    assert flags(backbone) == state
    assert same(snapshot(backbone), before)
    tuner.save(tmp_path)
    loaded = Tuner.load(tmp_path, backbone=tiny.backbone(case.family), check=True)
    assert equal(answers(loaded, case), said)
    assert loaded.classes_ == tuner.classes_
    assert flags(backbone) == state
    if case.method != "full" and case in CASES[::3]:
        model = AdaptedModel(backbone, tokenizer=tokenizer(case.family, case.task)).add("a", tuner).use("a")
        texts = [KINDS[case.task].asked(row) for row in rows(case.task, 5)]
        assert equal(*(list(map(np.asarray, one.predict(texts))) for one in (model, tuner)))
        model.remove("a")
        assert flags(backbone) == state
    if tuner.method.mergeable and not KINDS[case.task].own_pieces:
        tuner.merge()
        tuner.unmerge()
        assert flags(backbone) == state
        assert equal(answers(tuner, case), said)


SEEDED = [Case(name, "bert", "single") for name in METHODS]


@pytest.mark.parametrize("case", SEEDED, ids=ids(SEEDED))
def test_a_seed_decides_the_run(case):
    """Law 12: the same seed trains the same bits whatever was drawn before; another seed trains others."""
    found = []
    for seed, noise in ((1, 3), (1, 4), (2, 3)):
        torch.manual_seed(noise)
        torch.rand(noise)
        tuner = tuner_for(case).fit(rows("single", 16), config=TrainConfig(epochs=2, seed=seed, **QUIET))
        found.append(answers(tuner, case))
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])


class Killed(BaseException):
    """The run was cut here."""


class KillAt(Callback):
    """Cuts the run after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, row):
        if row["step"] == self.step:
            raise Killed


@pytest.mark.parametrize("name", ["adalora", "prefix", "full"])
def test_stopped_and_resumed_equals_uninterrupted(name, tmp_path):
    """Law 11: cut at every step and resumed in a new tuner, a run ends with the same bits, dropout on."""
    case = Case(name, "bert", "single")
    data, held = rows("single", 12), rows("single", 4)
    knobs = {"dropout": 0.2} if name in ("lora", "adalora", "bottleneck", "prefix") else {}

    def run(folder=None, cut=None, resume=None) -> Tuner:
        where = {"output_dir": folder, "save_every": 1} if folder else {}
        config = TrainConfig(epochs=2, **QUIET, **where)
        watchers = [KillAt(cut)] if cut else []
        return tuner_for(case, **knobs).fit(data, held, config, resume=resume, callbacks=watchers)

    whole = run()
    want = {path: dict(named) for path, named in whole.adapter.tensors().items()} | {"head": whole.adapter.head()}
    for cut in range(1, whole.report.steps + 1):
        folder = tmp_path / str(cut)
        with pytest.raises(Killed):
            run(folder, cut=cut)
        torch.rand(cut)
        again = run(folder, resume="auto")
        have = {path: dict(named) for path, named in again.adapter.tensors().items()} | {"head": again.adapter.head()}
        assert have.keys() == want.keys()
        assert all(same(have[key], want[key]) for key in want), f"cut at step {cut}"
        assert again.report.best == whole.report.best


BF16 = [Case(name, family, "single") for name in METHODS for family in ("bert", "llama")] + [
    Case("lora", "t5", "tokens"),
    Case("lora", "llama", "causal"),
    Case("prefix", "t5", "seq2seq"),
    Case("prefix", "bart", "multi"),
    Case("bottleneck", "gpt2", "tokens"),
]


def in_bf16(family: str) -> torch.nn.Module:
    """A backbone whose weights are bfloat16, its rotary tables float32, as transformers loads one."""
    made = tiny.backbone(family)
    for parameter in made.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return made


@pytest.mark.parametrize("case", BF16, ids=ids(BF16))
def test_a_bf16_backbone_trains_and_reloads(case, tmp_path):
    """Law 13: on a bfloat16 backbone training is finite, weights learn in float32, and saved answers come back."""
    backbone = in_bf16(case.family)
    tuner = tuner_for(case, backbone).fit(rows(case.task, 16), config=TrainConfig(epochs=2, **QUIET))
    assert all(np.isfinite(row["loss"]) for row in tuner.report.history if "loss" in row)
    said = answers(tuner, case)
    assert all(np.isfinite(row).all() for row in said if row.dtype.kind == "f")  # the others are texts
    if case.method != "full":
        assert {t.dtype for named in tuner.adapter.tensors().values() for t in named.values()} <= {torch.float32}
        assert {p.dtype for p in backbone.parameters()} == {torch.bfloat16}
    tuner.save(tmp_path)
    loaded = Tuner.load(tmp_path, backbone=in_bf16(case.family), check=True)
    assert equal(answers(loaded, case), said)
    if tuner.method.mergeable and not KINDS[case.task].own_pieces:
        tuner.merge()
        assert tuner.merge_receipt.max_logit_difference <= tuner.merge_receipt.tolerance
        tuner.unmerge()
        assert equal(answers(tuner, case), said)


@pytest.mark.parametrize("epochs", [1, 4])
@pytest.mark.parametrize("knobs", [{}, {"rank": 1, "init_rank": 3, "final": 0.0}, {"warmup": 0.6, "final": 0.3}])
@pytest.mark.parametrize("held", [None, 4])
def test_adalora_really_prunes(epochs, knobs, held, tmp_path):
    """After any fit, however short and with the best adapter kept, the ranks are within the budget, live and saved."""
    recipe = AdaLoRA(**{"rank": 2, "init_rank": 4, **knobs})
    tuner = Tuner(tiny.backbone("bert"), method=recipe, tokenizer=tokenizer("bert"))
    evaluation = rows("single", held) if held else None
    tuner.fit(rows("single", 8), evaluation, TrainConfig(epochs=epochs, **QUIET))
    live = {path: named["lora_A"].shape[0] for path, named in tuner.adapter.tensors().items()}
    assert 0 < sum(live.values()) <= recipe.rank * len(live)
    loaded = Tuner.load(tuner.save(tmp_path), backbone=tiny.backbone("bert"))
    assert {path: named["lora_A"].shape[0] for path, named in loaded.adapter.tensors().items()} == live
    assert equal(answers(loaded, SEEDED[0]), answers(tuner, SEEDED[0]))
    assert loaded.adapter.facts["trained_as"] == "adalora"


@pytest.mark.parametrize("case", [Case(name, "bert", "single") for name in ("lora", "prefix", "full")], ids=str)
def test_a_tuner_can_be_copied(case):
    """Law 14: a deep copy of a fitted tuner answers the same, and training the original further does not reach it."""
    tuner = tuner_for(case).fit(rows("single", 8), config=TrainConfig(epochs=1, **QUIET))
    twin, said = copy.deepcopy(tuner), answers(tuner, case)
    tuner.fit(rows("single", 8), config=TrainConfig(epochs=2, seed=5, **QUIET))
    assert equal(answers(twin, case), said)
    assert not equal(answers(tuner, case), said)


def test_two_tuners_on_one_model_do_not_disturb_each_other():
    """Fits, predictions and removals of one tuner leave every bit of the other's answers."""
    backbone, tok = tiny.backbone("llama"), tokenizer("llama")
    case = Case("lora", "llama", "single")
    config = TrainConfig(epochs=1, **QUIET)
    before = snapshot(backbone)
    first = tuner_for(case, backbone).fit(rows("single", 8), config=config)
    alone = answers(first, case)
    others = [
        Tuner(backbone, method=method(name), tokenizer=tok) for name in ("prefix", "prefix", "bottleneck", "full")
    ]
    kept = []
    for other in others:
        other.fit(rows("single", 8), config=config)
        kept.append(answers(other, case))
        assert equal(answers(first, case), alone)
    assert all(equal(answers(other, case), said) for other, said in zip(others, kept, strict=True))
    # Trained beside them, a tuner learns what it learns alone.
    assert equal(answers(tuner_for(case, backbone).fit(rows("single", 8), config=config), case), alone)
    for other in others[:3]:
        other._bank.remove("default")
    assert equal(answers(first, case), alone)
    assert same(snapshot(backbone), before)
    assert backbone.config._attn_implementation == "sdpa"


def test_adding_keeps_train_mode(tmp_path):
    """Loading a second adapter does not flip a model that is in train mode to eval mode."""
    case = Case("lora", "bert", "single")
    tuner = tuner_for(case).fit(rows("single", 8), config=TrainConfig(epochs=1, **QUIET))
    folder = tuner.save(tmp_path)
    model = AdaptedModel(tiny.backbone("bert"), tokenizer=tokenizer("bert")).add("a", folder)
    model.backbone.model.train()
    state = flags(model.backbone.model)
    model.add("b", folder).use("b")
    with torch.no_grad():
        model(**batch("bert", "single"), route="a")
    model.predict(["a lovely film"], adapters="b")
    assert flags(model.backbone.model) == state
