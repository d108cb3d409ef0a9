"""How a run ends: with the best adapter, in the form in which its method leaves it."""

from __future__ import annotations

import torch
from torch import Tensor

from petune.methods.base import Progress
from petune.training.report import EVAL
from petune.training.run import Run


def conclude(run: Run) -> None:
    """Restores the best adapter of the run, where that was asked for.

    A method may still be shaping its layers when the best evaluation is made (AdaLoRA prunes over the run), or when
    patience ends the run. The method then has its last word, `after_step` with no step left and no gradients. Layers
    that this changes are evaluated again, and a best one has to beat the end of the run anew.
    """
    run.settle()
    ended, kept_step = None, run.step
    if (best := run.best_state) is not None and run.good.step != run.step:
        ended, kept_step = run.learner.state(), run.good.step
        run.learner.restore(best)
    if kept_step != run.course.total and _reshaped(run):
        _choose_again(run, ended)


def _reshaped(run: Run) -> bool:
    """Whether the method's last word changes the layers."""
    layers = run.learner.layers
    before = [[tensor.clone() for tensor in layer.state_dict().values()] for layer in layers.values()]
    run.learner.method.after_step(layers, Progress(run.course.total, run.course.total))
    return any(
        not torch.equal(was, now)
        for layer, kept in zip(layers.values(), before, strict=True)
        for was, now in zip(kept, layer.state_dict().values(), strict=True)
    )


def _choose_again(run: Run, ended: dict[str, Tensor] | None) -> None:
    """The reshaped best adapter against the one at the end of a whole run (`ended`), by the same figure."""
    selection = run.selection
    if selection is None or selection.best_step is None:
        return
    if ended is None and run.good.step != run.step:
        return  # the last adapter was asked for, the best is only reported
    figures, step = run.figures(), selection.best_step
    run.notices.append(f"The best adapter (step {step}) was brought to its method's final form and evaluated again.")
    if ended is not None and run.step == run.course.total:
        last = {name.removeprefix(EVAL): value for name, value in run.history[-1].items() if name.startswith(EVAL)}
        if selection.beats(last, figures):
            run.learner.restore(ended)
            figures, step = last, run.step
            run.notices.append(f"The adapter at the end of the run (step {step}) is then the better one, and is kept.")
    selection.best, selection.best_step = figures, step
