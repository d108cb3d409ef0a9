"""What a launched process is given comes to it whole, or is refused; what it leaves comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertModel

from petune import LoRA, TrainConfig, Tuner
from petune.data.preparing import Prepared, prepare
from petune.errors import BackboneError, ConfigError, DataError, TrainingError
from petune.storage.packing import identity
from petune.training.identity import plain
from petune.training.ranks.launched import told, work
from petune.training.ranks.launching import Crew
from petune.training.ranks.parcel import pack_job, unpack_job
from petune.training.starting import start_from
from tests import tiny
from tests.conformance import subjects
from tests.tuners import QUIET

CONFIG = TrainConfig(epochs=1, **QUIET)


def fan(y_true: Any, y_pred: Any) -> float:
    """A metric in a module that can be imported."""
    return 1.0


class Own(BertModel):
    """A model class of a user's own."""


def packed(folder: Path, tuner: Tuner, config: TrainConfig = CONFIG, start: Any = None, data: Any = None) -> Prepared:
    """Packs a fit of the tuner; its prepared data."""
    data = data or prepare(tuner.task, tiny.rows(24), 0.25, tuner.tokenizer, 64, 0)
    pack_job(folder, tuner.backbone, "a", tuner.method, tuner.tokenizer, data, config, start, None)
    return data


def tuner_of(method: Any = "lora", model: Any = None, **knobs: Any) -> Tuner:
    """A tuner on a tiny BERT that was handed over as an object."""
    return Tuner(model or tiny.backbone("bert"), method=method, tokenizer=tiny.tokenizer("bert"), **knobs)


@pytest.mark.parametrize("method", ["lora", "adalora", "bottleneck", "prefix", "head", "full"])
def test_a_job_comes_over_whole(method, tmp_path):
    """Backbone, method, task, rows, knobs and the tensors to start from are the same on the other side."""
    tuner = tuner_of(subjects.method(method))
    start = start_from(tuner_of(LoRA(rank=2), tuner.backbone.model).fit(tiny.rows(8), config=CONFIG), tuner.backbone)
    config = TrainConfig(
        output_dir=tmp_path / "o", metrics=("f1", fan), class_weight={"bad": 2.0, "good": 1.0}, **QUIET
    )
    data = packed(tmp_path, tuner, config, start)
    job = unpack_job(tmp_path)
    assert identity(job.backbone) == identity(tuner.backbone)
    assert plain(job.method) == plain(tuner.method) and plain(job.task) == plain(data.task)
    assert plain(job.config) == plain(config) and job.config.metrics[1] is fan
    assert (job.train, job.evaluation) == (data.train, data.evaluation)
    assert job.start is not None and start is not None and job.start.method == start.method
    assert all(torch.equal(job.start.layers[p][n], t) for p, named in start.layers.items() for n, t in named.items())
    assert all(torch.equal(job.start.head[name], tensor) for name, tensor in start.head.items())


def test_no_pickle_lies_in_the_folder(tmp_path):
    """All of it is JSON, text and safetensors."""
    packed(tmp_path, tuner_of())
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".txt", ".jinja"}


def test_a_folder_with_other_weights_by_now_is_refused(tmp_path):
    """A backbone that is opened again by its name must still be the one that was packed."""
    home = tiny.folder("bert", tmp_path)
    (tmp_path / "job").mkdir()
    packed(tmp_path / "job", Tuner(home))
    tiny.backbone("bert", seed=7).save_pretrained(home)
    with pytest.raises(BackboneError, match="has other weights here"):
        unpack_job(tmp_path / "job")


def _script_class() -> Any:
    made = type("Mine", (LoRA,), {"__module__": "__main__", "__doc__": "A method of the script."})
    return made(rank=2)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda: {"tuner": tuner_of(_script_class())}, ConfigError, "Another process cannot be told of"),
        (lambda: {"tuner": tuner_of(model=Own(tiny.backbone("bert").config))}, BackboneError, "is no class of transf"),
        (lambda: {"config": TrainConfig(metrics=(lambda a, b: 1.0,), **QUIET)}, ConfigError, "cannot import the met"),
        (lambda: {"data": Prepared(tuner_of().task.learn(_table()), [{"a": {1}}], None)}, DataError, "JSON cannot ho"),
    ],
    ids=["method of the script", "model class", "lambda", "rows"],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(change: Callable[[], dict[str, Any]], error, words, tmp_path):
    """Before anything is launched, with what to do."""
    given = {"tuner": tuner_of(), **change()}
    with pytest.raises(error, match=words):
        packed(tmp_path, given.pop("tuner"), **given)


def _table() -> Any:
    from petune.data.sources import read

    return read(tiny.rows(8))


class Crewed(Crew):
    """A crew whose only process is this one."""

    def __init__(self, folder: Any, config: TrainConfig) -> None:
        super().__init__(1, folder, config)
        self.status = 0

    def _launch(self) -> None:
        try:
            work(self.folder, 0, unpack_job(self.folder))
        except Exception as error:
            (self.folder / "error-0.json").write_text(json.dumps(told(error)))
            self.status = 1
        self.children = [SimpleNamespace(poll=lambda: self.status, wait=int, stdin=None, returncode=self.status)]


def fitted_by_a_crew(monkeypatch: pytest.MonkeyPatch, config: TrainConfig) -> Tuner:
    """A tuner whose fit goes through the folder and back, without another process."""

    def crew_for(processes: Any, backbone: Any, name: Any, *more: Any) -> Crew:
        folder = TemporaryDirectory()
        *given, start, resume = more
        method, tokenizer, data, knobs = given
        pack_job(Path(folder.name), backbone, name, method, tokenizer, data, knobs, start, resume)
        return Crewed(folder, knobs)

    monkeypatch.setattr("petune.training.fitting.crew_for", crew_for)
    return tuner_of().fit(tiny.rows(24), config=config, processes=2)


def test_what_was_learnt_comes_back_with_the_same_bits(monkeypatch):
    """Through the folder and back it is the adapter and the report of a fit in this process."""
    from tests.training.crews import losses, same

    made = fitted_by_a_crew(monkeypatch, CONFIG)
    monkeypatch.undo()
    here = tuner_of().fit(tiny.rows(24), config=CONFIG)
    assert same(made, here) and losses(made) == losses(here)
    assert made.report.notices == here.report.notices


def test_a_run_that_went_wrong_keeps_its_last_good_adapter(monkeypatch):
    """A loss that is no number comes back as the error of that class, and the same text as here."""
    wild = TrainConfig(epochs=2, optimizer="sgd", learning_rate=1e38, max_grad_norm=0.0, **QUIET)
    texts = []
    for by_a_crew in (True, False):
        with pytest.raises(TrainingError, match=r"became (nan|inf)") as error:
            fitted_by_a_crew(monkeypatch, wild) if by_a_crew else tuner_of().fit(tiny.rows(24), config=wild)
        texts.append(str(error.value))
        monkeypatch.undo()
    assert texts[0] == texts[1]


def test_an_error_that_is_not_petunes_is_told_with_its_traceback():
    """Class and words are in the message, the rest is a note."""
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        made = told(error)
    assert made["class"] is None and made["what"] == "ZeroDivisionError: by zero"
    assert "test_parcel.py" in made["traceback"]
