"""What each of several processes does when one of them is told to leave."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

from petune.storage import checkpoint as storage
from petune.training.loop import train
from tests.training.fakes import FakeLearner, FakeTask, examples, settings

STEPS = 12


class Told(FakeLearner):
    """On rank 1, sends its process SIGTERM in a forward."""

    def __init__(self, at: int | None) -> None:
        super().__init__(dropout=0.3)
        self.at = at

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        logits = super().forward(input_ids, attention_mask)
        if self.forwards == self.at and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return logits


def run(folder: str | None, at: int | None) -> str:
    """A digest of what is learnt, in what is left of a run."""
    kept = {"output_dir": folder, "save_every": 100} if folder else {}
    config = settings(epochs=3, batch_size=3, **kept)
    learner = Told(at)
    train(learner, FakeTask(), None, examples(22), None, config, resume="auto" if folder else None)
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in learner.state().values())).hexdigest()


def leave(folder: str) -> dict[str, Any]:
    """Stops in the seventh step, goes on, and compares with a run that was not stopped."""
    whole = run(None, None)
    try:
        run(folder, at=7)
    except SystemExit as left:
        told = [left.code, *left.__notes__]
    there = [path.name for path in storage.found(Path(folder))]
    return {"told": told, "there": there, "same": run(folder, None) == whole}
