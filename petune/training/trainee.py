"""Who is trained on what, and what can be refused before anything is computed."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from accelerate import Accelerator

from petune.config import TrainConfig
from petune.errors import ConfigError, TrainingError
from petune.tasks.base import Example, Task
from petune.training.callbacks import Callback
from petune.training.class_weight import class_weights
from petune.training.evaluation import of_texts, rehearsed
from petune.training.identity import fingerprint
from petune.training.selection import Selection, make_selection, refuse_without_evaluation

if TYPE_CHECKING:
    from petune.model.learner import Learner

SHARED = ("mixed_precision", "gradient_checkpointing", "backbone_dropout")
"""Knobs that act on the backbone, of which there is one."""


class Checked(NamedTuple):
    """What is settled before a run: how its best evaluation is found, and label -> weight, if classes are weighted."""

    selection: Selection | None
    class_weights: dict[str, float] | None


@dataclass(frozen=True)
class Trainee:
    """One learner, and everything that decides how it is trained.

    Args:
        examples: encoded rows with labels; under several processes each holds all of them.
        eval_examples: evaluated at the end of each epoch; None: no evaluation, no early stop, no best adapter.
        callbacks: watch the run on the main process.
        identity: further facts that a checkpoint must agree on, such as the backbone's fingerprint.
        notices: what the report says from the start.
        name: for messages, where there are several.
    """

    learner: Learner
    task: Task
    tokenizer: Any
    examples: Sequence[Example]
    eval_examples: Sequence[Example] | None
    config: TrainConfig
    callbacks: Sequence[Callback] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    notices: Sequence[str] = ()
    name: str = ""

    @property
    def peak(self) -> float:
        """The largest learning rate."""
        return self.config.learning_rate or self.learner.method.learning_rate

    @property
    def calmer_peak(self) -> float:
        """A learning rate to try next: the method's own where this one is far above it."""
        usual: float = self.learner.method.learning_rate
        return usual if self.peak > 3 * usual else self.peak / 3

    @functools.cached_property
    def row_digests(self) -> dict[str, str | None]:
        """What the rows are known by; computed once, for every checkpoint carries it and rows do not change."""
        return {
            "training rows": fingerprint(self.examples),
            "evaluation rows": fingerprint(self.eval_examples),
        }

    def checked(self) -> Checked:
        """What the data and the knobs decide before the run.

        Raises:
            TrainingError: there are no rows.
            ConfigError: class weights or a batch size that do not fit the task, or a figure that no evaluation will
                give.
        """
        for what, rows in (("train on", self.examples), ("evaluate", self.eval_examples)):
            if rows is not None and not len(rows):
                raise TrainingError(f"There are no rows to {what}.", expected="At least one.", fix="Check the data.")
        self.task.need_rows(min(self.config.rows, len(self.examples)))
        return Checked(self._selection(), class_weights(self.task, self.examples, self.config))

    def _selection(self) -> Selection | None:
        """How the best evaluation will be found; None without evaluations."""
        if self.eval_examples is None:
            refuse_without_evaluation(self.config)
            return None
        # A metric that is unknown or fails is told now and not after an epoch.
        if self.config.sharding and of_texts(self.task, self.eval_examples, self.config.metrics):
            raise ConfigError(
                "Texts are to be written while the weights lie in shards.",
                expected="A process writes its texts alone, and has only a part of the weights.",
                fix="Leave metrics of texts out of TrainConfig, and call evaluate after the run.",
            )
        figures = rehearsed(self.task, self.eval_examples, (*self.task.default_metrics(), *self.config.metrics))
        return make_selection(self.config, self.task.headline(), figures)


def agreed(trainees: Sequence[Trainee]) -> TrainConfig:
    """The configuration that decides what all share: the backbone's precision, dropout and checkpointing.

    Raises:
        ConfigError: several learners that do not agree, write into one folder, or ask for fp16.
    """
    first = trainees[0].config
    for knob in SHARED:
        for other in trainees[1:]:
            if getattr(other.config, knob) != getattr(first, knob):
                raise ConfigError(
                    f"{knob} is {getattr(first, knob)!r} for {trainees[0].name!r} and "
                    f"{getattr(other.config, knob)!r} for {other.name!r}.",
                    expected="It acts on the backbone, which all adapters of a joint fit share.",
                    fix=f"Give all of them the same {knob}.",
                )
    folders: dict[Path, str] = {}
    for trainee in trainees if len(trainees) > 1 else ():
        if trainee.config.output_dir is not None:
            folder = Path(trainee.config.output_dir).resolve()
            if folder in folders:
                raise ConfigError(
                    f"{folders[folder]!r} and {trainee.name!r} have the same output_dir, {folder}.",
                    expected="Each run keeps its history and its checkpoints in a folder of its own.",
                    fix="Give each its own output_dir.",
                )
            folders[folder] = trainee.name
    if len(trainees) > 1 and any(trainee.config.padding_free is True for trainee in trainees):
        raise ConfigError(
            "padding_free=True was asked for in a joint fit.",
            expected="A forward there holds the batches of all adapters, each padded to the longest row of all.",
            fix="Use padding_free='auto', or fit the adapters one after the other.",
        )
    if len(trainees) > 1 and any(trainee.config.compile for trainee in trainees):
        raise ConfigError(
            "compile=True was asked for in a joint fit.",
            expected="One adapter is traced together with the blocks that it acts in.",
            fix="Leave it out, or fit the adapters one after the other.",
        )
    if len(trainees) > 1 and first.mixed_precision == "fp16":
        raise ConfigError(
            "mixed_precision='fp16' was asked for in a joint fit.",
            expected="One loss scale cannot serve several optimizers, each of which may overflow alone.",
            fix="Use mixed_precision='bf16' or 'no'.",
        )
    return first


def refuse_several_processes(accelerator: Accelerator, trainees: Sequence[Trainee]) -> None:
    """Raises ConfigError when several learners would be trained by several processes."""
    if len(trainees) > 1 and accelerator.num_processes > 1:
        raise ConfigError(
            f"A joint fit was started in {accelerator.num_processes} processes.",
            expected="Adapters that leave at different times cannot be synchronised; a joint fit is one process.",
            fix="Start it in one process, or fit the adapters one after the other.",
        )
