"""Trackers by Accelerate's own names: TensorBoard, Weights & Biases and others are told what the history is told.

Nothing is sent unless `TrainConfig(log_with=...)` names who is to get it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from petune.config import TrainConfig
from petune.errors import ConfigError
from petune.lookup import name_of, unknown
from petune.training.callbacks import Callback, Row, RunStart
from petune.training.identity import plain
from petune.training.report import EVAL, TrainReport
from petune.training.trainee import Trainee

PROJECT = "petune"
"""The project at a tracker, and the folder in `output_dir` of one that writes files."""

PRIVATE = ("output_dir", "cache_dir", "log_with", "progress")
"""Knobs that are nobody else's business: folders of this machine, and what is shown on it."""


def trackers_of(config: TrainConfig) -> list[str]:
    """The names that `log_with` holds, each once.

    Examples:
        >>> trackers_of(TrainConfig(log_with=["wandb", "wandb"])), trackers_of(TrainConfig())
        (['wandb'], [])
    """
    named = config.log_with or ()
    return list(dict.fromkeys([named] if isinstance(named, str) else named))


def refuse_trackers(config: TrainConfig) -> None:
    """Looks at the names before anything is read or trained.

    Raises:
        UnknownNameError: Accelerate has no such tracker.
        ConfigError: its package is not installed, or it needs a folder and there is none.
    """
    installed = {str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()}
    for name in trackers_of(config):
        if name not in LOGGER_TYPE_TO_CLASS:
            raise unknown("tracker", name, map(str, LOGGER_TYPE_TO_CLASS))
        if name in _OF_ACCELERATE and name not in installed:
            raise ConfigError(
                f"log_with={name!r} needs the package {name}, which is not installed.",
                fix=f"Run pip install {name}.",
            )
        if LOGGER_TYPE_TO_CLASS[name].requires_logging_directory and config.output_dir is None:
            raise ConfigError(
                f"log_with={name!r} was given without output_dir.",
                expected="This tracker writes files.",
                fix="Pass output_dir=..., in which it gets a folder of its own.",
            )


_OF_ACCELERATE = frozenset(map(str, LOGGER_TYPE_TO_CLASS))
"""Those that need a package; what a program registers later with Accelerate is there already."""


class Tracking(Callback):
    """Tells one run to its trackers: its settings at the start, then every row of the history, and the end.

    Called on the main process alone. The trackers end with the run, however it ends.
    """

    def __init__(self, trainee: Trainee, accelerator: Accelerator) -> None:
        self._trainee, self._accelerator = trainee, accelerator
        self._trackers: list[Any] = []

    def on_start(self, start: RunStart) -> None:
        accelerator, folder = self._accelerator, self._trainee.config.output_dir
        settings = settings_of(self._trainee, start)
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            accelerator.project_configuration.set_directories(str(folder))
        # Several runs share one Accelerator, so each takes the trackers that were made for it.
        accelerator.log_with, accelerator.trackers = trackers_of(self._trainee.config), self._trackers
        try:
            accelerator.init_trackers(PROJECT, init_kwargs={"wandb": self._for_wandb(settings)})
        finally:
            accelerator.log_with, accelerator.trackers = [], []
        for tracker in self._trackers:
            if tracker.name != "wandb":  # it has them, and would look for a run that all of the process share
                tracker.store_init_configuration(settings)

    def _for_wandb(self, settings: dict[str, Any]) -> dict[str, Any]:
        """A run of its own, whatever the program has open, whose files lie beside the others."""
        folder, name = self._trainee.config.output_dir, self._trainee.name
        own = {"config": settings, "reinit": "create_new"}
        return own | ({"dir": str(folder)} if folder else {}) | ({"name": name} if name else {})

    def on_step(self, row: Row) -> None:
        self._tell({name: value for name, value in row.items() if name != "step"}, row["step"])

    def on_evaluate(self, row: Row) -> None:
        self._tell({name: value for name, value in row.items() if name.startswith(EVAL)}, row["step"])

    def _tell(self, figures: Row, step: int) -> None:
        for tracker in self._trackers:
            tracker.log(figures, step=step)

    def on_end(self, report: TrainReport | None) -> None:
        """Also after an error; a tracker that never started has nothing to finish."""
        trackers, self._trackers = self._trackers, []
        for tracker in trackers:
            if getattr(tracker, "tracker", None) is not None:
                tracker.finish()


def settings_of(trainee: Trainee, start: RunStart) -> dict[str, bool | int | float | str]:
    """What a tracker stores of a run: one level of plain values, and no folder of this machine."""
    learner, task = trainee.learner, trainee.task
    settings = {
        "method": {"name": name_of("methods", learner.method), **plain(learner.method)},
        "task": {"name": name_of("tasks", task), **plain(task)},
        "config": {name: value for name, value in plain(trainee.config).items() if name not in PRIVATE},
        "learning_rate": trainee.peak,
        "steps": start.total,
        "training_rows": len(trainee.examples),
        "trainable_parameters": sum(p.numel() for p in learner.parameters() if p.requires_grad),
    }
    return dict(_flat(settings, ""))


def _flat(value: Any, name: str) -> list[tuple[str, bool | int | float | str]]:
    """Nested settings as `method.rank`; what is neither number nor word is written as one."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flat(item, f"{name}.{key}".lstrip("."))]
    return [(name, value if isinstance(value, bool | int | float | str) else str(value))]
