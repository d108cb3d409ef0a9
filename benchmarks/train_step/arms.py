"""Every arm by name: each call is one whole run from fresh weights, so that arms can take turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.train_step import control, ours
from benchmarks.train_step.outcome import Outcome
from benchmarks.train_step.settings import Settings
from petune import AdaLoRA, LoRA

Arm = Callable[[], Outcome]


def arms(settings: Settings) -> dict[str, Arm]:
    """Name -> a run. `top` arms adapt the top third; `epochs` of them all, one of the others.

    Full fine-tuning is the Trainer's at its best. `petune, defaults` stands beside `peft, defaults`: both with the
    encoder's dropout; all others have none. The classifier reads one position of the last block: petune computes no
    other by default; `exact` computes them all, as peft does.
    """
    still, dropping = settings.backbone(dropout=False), settings.backbone(dropout=True)
    steps = -(-len(settings.train) // settings.batch)
    all_blocks = LoRA(rank=settings.rank, alpha=settings.alpha)
    top = LoRA(rank=settings.rank, alpha=settings.alpha, top=settings.top)

    def petune(model: Any, method: Any, **knobs: Any) -> Arm:
        knobs = {"backbone_dropout": model is dropping, **knobs}
        return lambda: ours.fitted(settings, model, method, **knobs)

    def peft(blocks: int | None = None, *, best: bool = True, epochs: int = 1) -> Arm:
        def run() -> Outcome:
            learner = control.with_lora(settings, control.model(settings, dropout=not best), blocks)
            return control.trained(settings, learner, best=best, num_train_epochs=epochs)

        return run

    def peft_adalora() -> Outcome:
        learner = control.with_adalora(settings, control.model(settings, dropout=False), steps)
        return control.trained(settings, learner, callbacks=[control.Allocating()], learning_rate=AdaLoRA.learning_rate)

    def full() -> Outcome:
        return control.trained(settings, control.model(settings, dropout=False), learning_rate=1e-4)

    return {
        "full fine-tuning": full,
        "peft, defaults": peft(best=False),
        "petune, defaults": petune(dropping, all_blocks, trim_last_block=True),
        "peft, best": peft(),
        "petune, exact": petune(still, all_blocks),
        "petune, last block trimmed": petune(still, all_blocks, trim_last_block=True),
        "peft AdaLoRA": peft_adalora,
        "petune AdaLoRA": petune(still, AdaLoRA(), learning_rate=AdaLoRA.learning_rate),
        "peft, best, epochs": peft(epochs=settings.epochs),
        "peft, best, top": peft(settings.top, epochs=settings.epochs),
        "petune, exact, top": petune(still, top),
        "petune, trunk kept": petune(still, top, cache_trunk=True, epochs=settings.epochs),
        "petune, trunk kept, last block trimmed": petune(
            still, top, cache_trunk=True, trim_last_block=True, epochs=settings.epochs
        ),
    }
