"""What the tests of the Tuner share: a fresh one on a tiny BERT, rows, a quick configuration, and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from petune import TrainConfig, Tuner
from petune.errors import PetuneError
from tests import tiny

TOKENIZER = tiny.tokenizer("bert")
QUIET: dict[str, Any] = {"progress": "off", "batch_size": 8}
CONFIG = TrainConfig(epochs=1, **QUIET)
ROWS = tiny.rows(8)
TEXTS = [row["text"] for row in tiny.rows(5, seed=3)]


def fresh(**knobs: Any) -> Tuner:
    """A tuner that has learnt nothing."""
    return Tuner(tiny.backbone("bert"), **{"tokenizer": TOKENIZER, **knobs})


def refused(error: type[PetuneError], words: str, work: Any) -> PetuneError:
    """The error that some work ends with: its class, and words of its message in their order."""
    with pytest.raises(error, match=r"(?s)" + ".*".join(words.split("|"))) as caught:
        work()
    assert caught.value.what
    assert caught.value.expected or caught.value.fix
    return caught.value
