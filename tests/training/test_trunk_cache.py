"""A fit whose trunk is cached is the fit that it would be without: only cheaper, or refused with the reason."""

from __future__ import annotations

import random
import shutil
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.bert.modeling_bert import BertLayer

from petune import Job, LoRA, Prefix, SequenceClassification, TrainConfig, Tuner, fit_many
from petune.errors import ConfigError
from petune.model.trunk import trunk_of
from petune.storage.trunk_file import Shelf
from petune.training.callbacks import Callback
from petune.training.trunk_cache import TrunkCache
from tests import tiny
from tests.conformance import subjects
from tests.training.crews import quick, still

ROWS = tiny.rows(26)
TOP = LoRA(rank=4, top=1)
TRIED = 4 * 3
"""Rows that a run answers beforehand, to prove that its cache and its last block do the same for less."""


def tuner(model: PreTrainedModel, method: Any = TOP, kind: str = "single") -> Tuner:
    """A tuner on a model."""
    return Tuner(
        model, method=method, task=subjects.blank_task(kind), tokenizer=tiny.tokenizer(model.config.model_type)
    )


def losses(made: Tuner) -> list[float]:
    """Every loss of the fit, those of evaluations included."""
    assert made.report is not None
    return [row[name] for row in made.report.history for name in ("loss", "eval_loss") if name in row]


def weights(made: Tuner) -> dict[str, torch.Tensor]:
    """Everything that was trained."""
    adapter = made.adapter
    named = {f"{path}:{name}": t for path, layer in adapter.tensors().items() for name, t in layer.items()}
    return {**named, **adapter.head()}


@contextmanager
def calls_of_the_first_block() -> Iterator[list[int]]:
    """The batch sizes with which the first block of a BERT is really run."""
    plain, seen = BertLayer.forward, []

    def counted(self: BertLayer, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.__dict__.get("first"):
            seen.append(len(hidden_states))
        return plain(self, hidden_states, *args, **kwargs)

    with mock.patch.object(BertLayer, "forward", counted):
        yield seen


def counted_bert() -> PreTrainedModel:
    """A BERT whose first block is known to `calls_of_the_first_block`."""
    model = still("bert")
    model.encoder.layer[0].__dict__["first"] = True
    return model


@pytest.mark.parametrize(
    ("family", "kind"),
    [("bert", "single"), ("bert", "tokens"), ("roberta", "multi"), ("modernbert", "single"), ("deberta-v2", "single"),
     ("gpt2", "single"), ("llama", "causal"), ("t5", "seq2seq"), ("bart", "seq2seq")],
)  # fmt: skip
def test_the_same_losses(family: str, kind: str) -> None:
    """With shuffled rows, accumulation and evaluations the losses are those of the uncached fit, to 1e-5."""
    rows = subjects.rows(kind, 26)
    runs = []
    for cached in (False, True):
        config = quick(epochs=3, gradient_accumulation_steps=2, cache_trunk=cached)
        runs.append(losses(tuner(still(family), kind=kind).fit(rows, rows[:7], config)))
    assert len(runs[0]) >= 9
    assert runs[1] == pytest.approx(runs[0], rel=1e-5, abs=1e-6)


def test_every_method() -> None:
    """Prefix, bottleneck, AdaLoRA and a head alone are cached alike, dropout in the live block included."""
    for name in ("prefix", "bottleneck", "adalora", "head"):
        method = subjects.method(name, **({} if name == "head" else {"top": 1}))
        runs = [
            losses(tuner(tiny.backbone("bert"), method).fit(ROWS, None, quick(epochs=2, cache_trunk=cached)))
            for cached in (False, True)
        ]
        assert runs[1] == pytest.approx(runs[0], rel=1e-5, abs=1e-6), name


def test_the_trunk_runs_once() -> None:
    """However many epochs and evaluations there are, the first block computes each row once, and a few to prove it."""
    with calls_of_the_first_block() as seen:
        made = tuner(counted_bert()).fit(ROWS, ROWS[:5], quick(epochs=4))
    assert sum(seen) <= len(ROWS) + TRIED
    assert made.report is not None and any("was computed once" in notice for notice in made.report.notices)


def test_an_encoder_runs_once() -> None:
    """Of a translation's rows, however they are batched, the frozen encoder reads each once."""
    model, rows = still("t5"), subjects.rows("seq2seq", 26)
    block, seen = model.encoder.block[0], []
    plain = block.forward
    block.forward = lambda state, *args, **more: (seen.append(len(state)), plain(state, *args, **more))[1]
    tuner(model, kind="seq2seq").fit(rows, rows[:5], quick(epochs=3))
    assert sum(seen) <= len(rows) + TRIED


def test_off_when_it_saves_nothing() -> None:
    """By default there is no cache for a single epoch, nor for adapters in every block, and nothing is said of it."""
    for method, knobs in ((TOP, {"epochs": 1}), (LoRA(rank=4), {"epochs": 2}), (TOP, {"cache_trunk": False})):
        made = tuner(still("bert"), method).fit(ROWS, None, quick(**knobs))
        assert made.report is not None and not any("trunk" in notice for notice in made.report.notices)


def test_jobs_share_a_cache() -> None:
    """Two jobs with other seeds and ranks on the same rows compute the trunk once between them, and learn as alone."""
    knobs = [{"seed": 1, "learning_rate": 0.01}, {"seed": 2, "learning_rate": 0.02}]
    alone = [
        losses(tuner(still("bert"), LoRA(rank=rank, top=1)).fit(ROWS, None, quick(cache_trunk=False, **own)))
        for rank, own in zip((4, 8), knobs, strict=True)
    ]
    model = counted_bert()
    tuners = [tuner(model, LoRA(rank=rank, top=1)) for rank in (4, 8)]
    with calls_of_the_first_block() as seen:
        fit_many([Job(it, ROWS, None, quick(**own)) for it, own in zip(tuners, knobs, strict=True)])
    assert sum(seen) <= len(ROWS) + 2 * TRIED
    for it, before in zip(tuners, alone, strict=True):
        assert losses(it) == pytest.approx(before, rel=1e-4)


def test_runs_share_a_folder(tmp_path: Path) -> None:
    """A second run with the same folder computes no trunk at all, also where nothing fits into memory."""
    knobs = {"cache_dir": tmp_path, "cache_bytes": 0}
    first = tuner(counted_bert()).fit(ROWS, None, quick(**knobs))
    with calls_of_the_first_block() as seen:
        second = tuner(counted_bert()).fit(ROWS, None, quick(**knobs))
    assert sum(seen) <= TRIED
    assert losses(first) == losses(second)
    assert len(list(tmp_path.glob("trunk-*/states-*.safetensors"))) == 1


def test_a_damaged_file_is_passed_over(tmp_path: Path) -> None:
    """A file that is cut short or changed is not believed: its rows are computed again."""
    knobs = {"cache_dir": tmp_path, "cache_bytes": 0}
    plain = losses(tuner(still("bert")).fit(ROWS, None, quick(**knobs)))
    (file,) = tmp_path.glob("trunk-*/states-*.safetensors")
    whole = file.read_bytes()
    for bad in (whole[:-10], whole[:-40] + bytes(20) + whole[-20:], b""):
        file.write_bytes(bad)
        assert losses(tuner(still("bert")).fit(ROWS, None, quick(**knobs))) == plain


def test_another_backbone_has_files_of_its_own(tmp_path: Path) -> None:
    """The states of other weights are never taken, though folder and rows are the same."""
    for seed in (0, 1):
        model = tiny.backbone("bert", seed, dropout=0.0)
        runs = [
            losses(tuner(model).fit(ROWS, None, quick(**knobs)))
            for knobs in ({"cache_trunk": False}, {"cache_dir": tmp_path, "cache_bytes": 0})
        ]
        assert runs[1] == pytest.approx(runs[0], rel=1e-5)
    assert len(list(tmp_path.glob("trunk-*"))) == 2


def noisy(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
    """Adversarial noise, other each time."""
    return output + 0.1 * torch.randn_like(output)


def test_a_hook_that_changes_the_inputs() -> None:
    """Noise on the embeddings (NEFTune, adversarial training) is refused by True, and keeps "auto" from caching."""
    model = still("bert")
    model.embeddings.word_embeddings.register_forward_hook(noisy)
    with pytest.raises(ConfigError, match=r"a forward hook acts at .embeddings\.word_embeddings."):
        tuner(model).fit(ROWS, None, quick(cache_trunk=True))
    made = tuner(model).fit(ROWS, None, quick())
    assert made.report is not None
    assert any("not cached: a forward hook acts" in notice for notice in made.report.notices)


def test_true_tells_why_not() -> None:
    """Where nothing is below the lowest adapter, `cache_trunk=True` is an error that names the way out."""
    with pytest.raises(ConfigError, match=r"no block lies below the lowest adapter.*top=2"):
        tuner(still("bert"), LoRA(rank=4)).fit(ROWS, None, quick(cache_trunk=True))


def test_too_large_for_memory_and_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room the default goes on uncached and says what it would take; True says that it cannot."""
    made = tuner(still("bert")).fit(ROWS, None, quick(cache_bytes=10))
    assert made.report is not None and any("Pass cache_dir" in notice for notice in made.report.notices)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(ConfigError, match="do not fit on the disk"):
        tuner(still("bert")).fit(ROWS, None, quick(cache_bytes=10, cache_dir=tmp_path, cache_trunk=True))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """A `cache_dir` that cannot be one is told: as an error by True, as a notice by the default."""
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="is no folder that can be written to"):
        tuner(still("bert")).fit(ROWS, None, quick(cache_dir=file, cache_trunk=True))
    made = tuner(still("bert")).fit(ROWS, None, quick(cache_dir=file))
    assert made.report is not None and any("is no folder" in notice for notice in made.report.notices)
    assert file.read_text() == "mine"


def test_changed_rows_are_not_found() -> None:
    """A row is known by its pieces: one that is changed, and any batch with it, is computed anew."""
    model = still("bert")
    blocks = [(f"encoder.layer.{n}", block) for n, block in enumerate(model.encoder.layer)]
    trunk = trunk_of(blocks, 1, "bert")
    assert trunk is not None
    cache, inputs = TrunkCache(trunk, 1 << 20), subjects.batch("bert", "single")
    with trunk.listening():
        states = trunk.catch(lambda: model(**inputs))
    keys, lengths = cache.keys(inputs), trunk.lengths(inputs)
    assert keys is not None and lengths is not None
    cache.keep(keys, states, lengths)
    found = cache.states(inputs)
    real = inputs["attention_mask"].bool()
    assert found is not None and torch.equal(found[0][real], states[0][real])
    cut = {name: tensor[1:2, : int(lengths[0][1])] for name, tensor in inputs.items()}  # another batch, other padding
    assert cache.states(cut) is not None
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][0, 1] += 1
    assert cache.states(changed) is None
    assert cache.states({**inputs, "inputs_embeds": torch.zeros(1)}) is None


def test_rows_are_kept_without_padding() -> None:
    """The cache takes as many bytes as different rows have pieces, whatever they were padded to."""
    model = still("bert")
    made = tuner(model).fit(ROWS, None, quick())
    pieces = sum(len(tiny.tokenizer("bert")(row["text"])["input_ids"]) for row in {r["text"]: r for r in ROWS}.values())
    assert made.report is not None
    (notice,) = [notice for notice in made.report.notices if "computed once" in notice]
    assert notice.endswith(f"for {len(ROWS)} rows; {pieces * tiny.WIDTH * 4 / 2**20:,.1f} MB are kept.")


def test_files_hold_any_type(tmp_path: Path) -> None:
    """What is written is read back to the bit, bfloat16 included, out of a file that is mapped into memory."""
    rows = {bytes([n]) * 16: (torch.randn(n + 1, 3).bfloat16(), torch.randn(2, 3)) for n in range(4)}
    shelf = Shelf.of(tmp_path, {"backbone": "x"})
    shelf.write(rows)
    again = shelf.read()
    assert again.keys() == rows.keys()
    assert all(torch.equal(a, b) for key in rows for a, b in zip(again[key], rows[key], strict=True))
    assert Shelf.of(tmp_path, {"backbone": "y"}).read() == {}


class Stop(Exception):
    """The run was cut here."""


class StopAt(Callback):
    """Cuts the run in a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, row: Any) -> None:
        if row["step"] == self.step:
            raise Stop


@pytest.mark.parametrize("step", [2, 9])
def test_resumed_to_the_same_bits(tmp_path: Path, step: int) -> None:
    """Cut in the first or the second epoch and resumed, a cached run ends with the bits of an uninterrupted one."""
    knobs: dict[str, Any] = {"epochs": 3, "save_every": 1, "cache_trunk": True}
    whole = tuner(tiny.backbone("bert")).fit(ROWS, ROWS[:6], quick(output_dir=tmp_path / "whole", **knobs))
    config = quick(output_dir=tmp_path / "cut", **knobs)
    with pytest.raises(Stop):
        tuner(tiny.backbone("bert")).fit(ROWS, ROWS[:6], config, callbacks=[StopAt(step)])
    resumed = tuner(tiny.backbone("bert")).fit(ROWS, ROWS[:6], config, resume="auto")
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())


def test_gradient_checkpointing_and_a_cache() -> None:
    """Recomputing the live blocks starts from the cached states as well."""
    runs = [
        losses(tuner(still("bert"), Prefix(length=3, top=1)).fit(ROWS, None, quick(cache_trunk=it, **knobs)))
        for it, knobs in ((False, {}), (True, {"gradient_checkpointing": True}))
    ]
    assert runs[1] == pytest.approx(runs[0], rel=1e-5)


def test_the_config_names_the_knobs() -> None:
    """Wrong values of the three knobs are refused."""
    for bad in ({"cache_trunk": "on"}, {"cache_bytes": -1}, {"cache_dir": 3}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            TrainConfig(**bad)


def test_rows_that_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are masked at random each time they are collated give the cache up, with the reason; True refuses."""
    plain, drawn = SequenceClassification.collate, random.Random(0)

    def masked(self: Any, examples: Any, tokenizer: Any) -> Any:
        changed = [{**it, "input_ids": [*it["input_ids"][:-1], drawn.randrange(5, 90)]} for it in examples]
        return plain(self, changed, tokenizer)

    monkeypatch.setattr(SequenceClassification, "collate", masked)
    made = tuner(still("bert")).fit(ROWS, None, quick(epochs=3))
    assert made.report is not None
    assert any("not cached any more" in notice for notice in made.report.notices)
    with pytest.raises(ConfigError, match="change from epoch to epoch"):
        tuner(still("bert")).fit(ROWS, None, quick(epochs=3, cache_trunk=True))


def test_bf16(tmp_path: Path) -> None:
    """Under autocast the cache holds what autocast computes, for evaluations as well."""
    runs = [
        losses(tuner(still("bert")).fit(ROWS, ROWS[:6], quick(mixed_precision="bf16", cache_trunk=it)))
        for it in (False, True)
    ]
    assert runs[1] == pytest.approx(runs[0], rel=2e-2)


def test_a_job_without_a_cache_beside_one() -> None:
    """In a joint fit the job that wants no cache runs the trunk, and the other passes over it."""
    model, rows = counted_bert(), tiny.rows(24)
    jobs = [
        Job(tuner(model), rows, None, quick(epochs=3, cache_trunk=it, trim_last_block=False)) for it in (True, False)
    ]
    with calls_of_the_first_block() as seen:
        fit_many(jobs)
    assert sum(seen) <= (1 + 3) * len(rows) + 3 * 3


def test_other_settings_have_files_of_their_own(tmp_path: Path) -> None:
    """The same weights under another configuration (another activation) never read each other's states."""
    for act in ("gelu", "relu"):
        model = still("bert", hidden_act=act)
        runs = [
            losses(tuner(model).fit(ROWS, None, quick(**knobs)))
            for knobs in ({"cache_trunk": False}, {"cache_dir": tmp_path, "cache_bytes": 0})
        ]
        assert runs[1] == pytest.approx(runs[0], rel=1e-5)
    assert len(list(tmp_path.glob("trunk-*"))) == 2
