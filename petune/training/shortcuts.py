"""What a run leaves out without learning anything else: each is tried, or known to be the same, beforehand.

| what | where |
|---|---|
| the last block's other positions | the head reads the first alone (`petune.model.trimming`) |
| logits where no loss falls | a language model learns alone (`petune.model.focusing`) |
| Python between the operations | `compile` was asked for (`petune.model.compiled_learning`) |

What the trunk makes of rows is left out by `petune.training.caching`, padding by `petune.model.unpadding`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from accelerate import Accelerator

from petune.errors import ConfigError
from petune.lookup import name_of
from petune.model.learner import Learner
from petune.model.trimming import listening, might_trim, trims_alike
from petune.training.batches import on_device
from petune.training.cacheable import few_rows
from petune.training.trainee import Trainee


@contextmanager
def shortcuts(trainee: Trainee, accelerator: Accelerator, *, alone: bool) -> Iterator[None]:
    """A learner in fitting mode takes every shortcut that it can.

    Args:
        alone: whether no other learner shares its forwards.
    """
    learner, config = trainee.learner, trainee.config
    with ExitStack() as stack:
        if config.compile:  # blocks whose calls are listened to are not compiled
            _refuse_uncompiled(learner)
            stack.enter_context(learner.compiled())
        elif config.trim_last_block and might_trim(learner):
            stack.enter_context(listening(learner))
            learner.trims = _trims(trainee, accelerator)
        learner.focuses = alone and learner.can_focus
        try:
            yield
        finally:
            learner.trims = learner.focuses = False


def _refuse_uncompiled(learner: Learner) -> None:
    """Raises ConfigError for an adapter whose layers cannot be traced together with their blocks."""
    method, sites = learner.method, learner.adapter.body.sites
    if method.residence != "shared" or not sites or any(site.kind == "attention" for site in sites):
        raise ConfigError(
            f"compile=True cannot be kept with the method {name_of('methods', method)!r}.",
            expected="LoRA, AdaLoRA and bottleneck adapters are traced together with the blocks that they act in.",
            fix="Leave compile out.",
        )


def _trims(trainee: Trainee, accelerator: Accelerator) -> bool:
    """Whether some rows have the same answers either way; random numbers and modes are left alone."""
    learner = trainee.learner
    learner.mode(False)
    try:
        with accelerator.autocast():
            return trims_alike(learner, on_device(few_rows(trainee), accelerator.device))
    finally:
        learner.mode(True)
