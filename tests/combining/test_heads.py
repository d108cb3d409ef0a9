"""Whose head, task and labels the merged adapter has."""

from __future__ import annotations

import pytest
import torch

from petune import LoRA, TrainConfig, Tuner, merge_adapters
from petune.errors import AdapterError, ConfigError
from tests import tiny
from tests.combining.making import MIXES, adapter, adapters, changes, merged, off, summed
from tests.conformance.subjects import open_backbone

SMALL = LoRA(rank=2, targets=("query",))


def test_other_labels_and_tasks_need_a_choice():
    """Without one it is an error that names both; with one, task, labels and head are that adapter's."""
    home = open_backbone("bert")
    made = [adapter(home, kind, SMALL, kind, seed=seed) for seed, kind in enumerate(("single", "multi", "tokens"))]
    for others in (made[:2], made[1:]):
        with pytest.raises(AdapterError, match=f"'{others[0].name}' answers in .*head='{others[0].name}'"):
            merged(others)
    for head, place in (("multi", 1), (2, 2), ("single", 0)):
        both = merged(made, [1.0, 1.0, -1.0], head=head)
        assert both.adapter.task == made[place].task and both.report.head == made[place].name
        assert all(torch.equal(both.adapter.head()[name], t) for name, t in made[place].head().items())
        assert off(changes(both.adapter), summed(made, [1.0, 1.0, -1.0])) < 1e-6


def test_a_name_that_several_have_is_no_choice():
    """Then the place decides."""
    made = adapters("plain")
    twins = [made[0].renamed("default"), made[1].renamed("default")]
    with pytest.raises(ConfigError, match="names 2 of the adapters"):
        merged(twins, head="default")
    assert torch.equal(merged(twins, head=1).adapter.head()["classifier.weight"], made[1].head()["classifier.weight"])


def test_heads_are_a_weighted_mean():
    """By weights that need not sum to one; a common head stays as it is, to the bit and below zero too."""
    made = adapters("plain")
    mean = merged(made, [3.0, 1.0]).adapter.head()
    for name, tensor in mean.items():
        wanted = 0.75 * made[0].head()[name] + 0.25 * made[1].head()[name]
        assert torch.allclose(tensor, wanted, atol=1e-7)
    twin = adapter(made[0].shell.backbone, "twin", MIXES["plain"][0], seed=9)
    twin.load(twin.tensors(), made[0].head())
    same = merged([made[0], twin], [1.0, -2.0]).adapter.head()
    assert all(torch.equal(same[name], tensor) for name, tensor in made[0].head().items())


def test_a_pooler_in_the_head_is_averaged_too(tmp_path):
    """Of a masked language model the pooler is a part of the head that acts inside the backbone."""
    rows, home = tiny.rows(8), tiny.mlm_folder("bert", tmp_path)
    tuners = [Tuner(home, method=SMALL).fit(rows, config=TrainConfig(epochs=1, seed=s, progress="off")) for s in (0, 1)]
    folders = [tuner.save(tmp_path / f"{place}") for place, tuner in enumerate(tuners)]
    both = merge_adapters(folders)
    name = "bert.pooler.dense.weight"
    wanted = (tuners[0].adapter.head()[name] + tuners[1].adapter.head()[name]) / 2
    assert torch.allclose(both.adapter.head()[name], wanted, atol=1e-7)


def test_only_heads():
    """Without any weight change the result is an adapter of the method `head`."""
    home = open_backbone("bert")
    both = merged([adapter(home, name, MIXES["only a head"][0], seed=ord(name)) for name in "ab"])
    assert type(both.method).__name__ == "Head" and not both.report.sites
    assert str(both.report) == "linear of 0.5 · a + 0.5 · b, mean head: 0 sites, relative error 0"
