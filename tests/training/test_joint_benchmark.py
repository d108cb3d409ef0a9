"""The benchmark of joint training compares like with like."""

from __future__ import annotations

import pytest

from benchmarks import joint
from tests import tiny
from tests.training.crews import still


@pytest.mark.parametrize("setting", sorted(joint.SETTINGS))
def test_both_arms_do_the_same_work(setting, monkeypatch):
    """In each setting the loss curves of the two arms agree, and all figures are there."""
    monkeypatch.setattr(joint, "sentiment", lambda: {"train": tiny.rows(40)})
    monkeypatch.setattr(joint, "questions", lambda: {"train": tiny.rows(40, 3)})
    make = joint.maker(still("bert"), tiny.tokenizer("bert"))
    found = joint.measured(make, joint.SETTINGS[setting], steps=3, repeats=1)
    assert found["largest_loss_difference"] < 1e-4
    assert found["adapters"] * found["steps"] <= found["real_tokens"]
    assert found["alone_over_joint"] > 0 and found["padding"].keys() == found["all_seconds"].keys()
