"""The benchmarks of training on a tiny encoder: every arm runs, arms do the same work, tables and pictures are made.

Figures are not asserted: they are those of the machine.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import bars, import_time, planned, sweep, training_memory, tutorial_recipe
from benchmarks.train_step import __main__ as train_step
from benchmarks.train_step import control, figures, ours, tables, traces
from benchmarks.train_step.floors import Floors, Operations, operations, order
from benchmarks.train_step.settings import Settings
from petune import LoRA
from tests import tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft's
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Everything as small as it gets."""
    encoder = str(tiny.folder("bert", tmp_path_factory.mktemp("encoder")))
    rows = {"train": tiny.rows(16), "validation": tiny.rows(8, seed=1), "test": tiny.rows(8, seed=2)}
    return Settings(encoder, 16, 8, repeats=1, batch=4, epochs=2, top=1, traced=6, max_length=32, parts=rows)


@pytest.fixture(scope="module")
def measured(settings: Settings) -> dict[str, Any]:
    """The training step, measured once."""
    return train_step.run(settings)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own costs seconds, and what is tested here is no memory."""
    for module in (planned, training_memory, tutorial_recipe):
        monkeypatch.setattr(module, "in_its_own", lambda function, *args, threads: function(*args))


def sound(result: dict[str, Any], text: str, picture: str) -> None:
    """The result is plain JSON, every target is in the table, and the picture is well-formed."""
    assert json.loads(json.dumps(result, allow_nan=False))
    assert all(claim["figure"] in text for claim in result.get("claims", []))
    ElementTree.fromstring(picture)


def test_the_training_step(measured: dict[str, Any]) -> None:
    """Floors and arms all have seconds, arms have scores, and those with a limit a share of it."""
    sound(measured, tables.table(measured), tables.picture(measured))
    assert len(measured["claims"]) == 10
    assert all(len(each) == 1 and each[0] > 0 for each in measured["seconds_per_epoch"].values())
    assert figures.LIMITS.keys() < measured["arms"].keys()
    assert {name for name in measured["arms"] if not name.startswith("floor")} == {
        name for name, arm in measured["arms"].items() if "accuracy" in arm
    }


def test_the_arms_do_the_same_work(measured: dict[str, Any]) -> None:
    """From the same weights over the same batches, the losses of petune, with and without cache, and of peft agree."""
    for trace in measured["traces"].values():
        assert trace["steps"] >= 6
        assert trace["largest"] < 1e-4


def test_dropout_keeps_less_than_in_peft(measured: dict[str, Any]) -> None:
    """The count is exact, so this holds on every machine."""
    saved = measured["saved_bytes"]
    assert 1 <= saved["petune"]["ratio"] < saved["peft"]["ratio"]
    assert saved["petune"]["without"] <= saved["peft"]["without"]


def test_petune_and_peft_train_as_much(settings: Settings) -> None:
    """The same sites and heads on both sides: the trainable weights are as many."""
    learner = control.with_lora(settings, control.model(settings, dropout=False), 1)
    theirs = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    model, method = settings.backbone(dropout=False), LoRA(rank=settings.rank, alpha=settings.alpha, top=1)
    plan = ours.tuner(settings, model, method).plan(settings.train, timed=False)
    assert plan.trainable_parameters == theirs


def test_floors_are_those_of_the_formula() -> None:
    """LoRA on all blocks costs two forwards and x of one, as counted by hand: x = (s + 27 r) / (6 d + s)."""

    class Shape:
        hidden_size, intermediate_size, num_hidden_layers = 64, 256, 12

    work = operations(Settings("", rank=8, top=3, parts={}), Shape, [(4, 64)])
    forward = 12 * 4 * 64 * (24 * 64**2 + 4 * 64 * 64)
    whole = work["floor, all blocks"]
    assert (whole.frozen + whole.adapters) / forward == pytest.approx(2 + (64 + 27 * 8) / (6 * 64 + 64))
    top = work["floor, top"]
    assert (top.frozen + top.adapters) / forward == pytest.approx(1 + 3 / 12 * (1 + (64 + 27 * 8) / (6 * 64 + 64)))
    assert Operations(100, 10).limit(2.0) == pytest.approx(2.2)


def test_the_kept_floor_answers_as_the_whole_encoder(settings: Settings) -> None:
    """Fed with the trunk's states, the upper blocks give what the whole encoder gives."""
    floors = Floors(settings)
    for batch, caught in zip(floors.batches, floors.caught, strict=True):
        states = caught.states
        for block in floors.blocks[1:]:
            states = block(states, *caught.others, **caught.named)
        assert (states - floors.model(**batch).last_hidden_state).abs().max() < 1e-5
    for call in floors.calls().values():
        call()


def test_another_start_is_noticed(settings: Settings) -> None:
    """A weight without a place in peft's model is an error; rows that leave a small batch are refused."""
    learner = control.with_lora(settings, control.model(settings, dropout=False))
    with pytest.raises(KeyError, match="nowhere has 0 places"):
        traces.take(learner, {"nowhere": next(learner.parameters())})
    with pytest.raises(ValueError, match="no whole number of batches"):
        traces.petune_and_peft(replace(settings, rows=14))
    assert sorted(row for rows in order(settings, 1) for row in rows) == list(range(16))


def test_the_sweep(settings: Settings) -> None:
    """Every job has a score in every arm."""
    found = sweep.run(settings, ranks=(2,))
    sound(found, sweep.table(found), sweep.picture(found))
    assert all(len(arm["accuracies"]) == len(sweep.RATES) for arm in found["arms"].values())


def test_the_tutorial_recipe(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe pads every row; petune stops the clock at its score, or says that it was not reached."""
    monkeypatch.setattr(tutorial_recipe, "PADDED", 32)
    monkeypatch.setattr(tutorial_recipe, "ATTEMPTS", {"petune, LoRA, top": (1, 2)})
    found = tutorial_recipe.run(settings, 1)
    sound(found, tutorial_recipe.table(found), tutorial_recipe.picture(found))
    assert {len(row["input_ids"]) for row in control.encoded(settings, settings.train, padded=32)} == {32}
    never = tutorial_recipe.attempt(settings, 0, "petune, LoRA, top", 1.1)
    assert not never["reached"] and never["epochs"] == 2
    assert tutorial_recipe.claims({"tutorial": [{"seconds": 9.0}], "petune, LoRA, top": [never]})[0]["measured"] == 0


def test_the_memory_of_training(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every arm runs; LoRA stands beside the smaller full fine-tuning."""
    monkeypatch.setattr(training_memory, "PADDED", 32)
    found = training_memory.run(settings, 1)
    text = training_memory.table(found)
    assert list(found["megabytes"]) == list(training_memory.ARMS) and text.count("\n") == len(found["megabytes"]) + 6
    made = dict.fromkeys(training_memory.ARMS, 100.0) | {"petune, LoRA": 45.0, "petune, full": 80.0}
    assert training_memory.claims(made)[0]["measured"] == pytest.approx(45 / 80)
    ElementTree.fromstring(training_memory.picture(found))


def test_plans_beside_runs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both figures of every setting are predicted and measured."""
    only = {"LoRA, top, trunk kept": (LoRA(top=1), {"epochs": 2, "cache_trunk": True})}
    monkeypatch.setattr(planned, "SETTINGS", only)
    found = planned.run(settings.encoder, settings.train, 1, 1)
    sound(found, planned.table(found), planned.picture(found))
    assert len(found["claims"]) == 2


def test_imports_are_timed() -> None:
    """In fresh processes, above a Python that imports nothing."""
    found = import_time.run(1, {"nothing": "", "json": "import json"})
    sound(found, import_time.table(found), import_time.picture(found))
    assert list(found["imports"]) == ["json"] and found["imports"]["json"]["cpu_seconds"] >= 0


@pytest.mark.parametrize("module", [train_step, sweep, planned, training_memory, tutorial_recipe])
def test_a_check_writes_nothing(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """With a single repeat the table is printed and the results stay as they were; with enough they are written."""
    monkeypatch.setattr("benchmarks.machine.RESULTS", tmp_path)
    monkeypatch.setattr("benchmarks.real_data.encoder_folder", lambda: tmp_path)
    monkeypatch.setattr("benchmarks.real_data.sentiment", lambda: {"train": [], "validation": [], "test": []})
    for name, answer in (("run", {"claims": []}), ("table", "the table"), ("picture", "<svg/>")):
        monkeypatch.setattr(module, name, lambda *given, answer=answer: answer)
    module.main(["--repeats", "1", "--threads", "1"])
    assert not list(tmp_path.iterdir()) and "the table" in capsys.readouterr().out
    module.main(["--threads", "1"])
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".svg"}


def test_bars_and_marks() -> None:
    """A bar for each, a line where a mark stands, and names that are safe in XML."""
    picture = ElementTree.fromstring(bars.drawn("a < b", {"petune & co": 1.0, "peft": 0.0}, {"peft": 2.0}))
    spaces = {"svg": "http://www.w3.org/2000/svg"}
    assert len(picture.findall("svg:rect", spaces)) == 3 and len(picture.findall("svg:line", spaces)) == 1
