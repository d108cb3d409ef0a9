"""`fit_many`: several adapters trained at once on one backbone, which runs once for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petune.config import TrainConfig, as_config
from petune.errors import ConfigError
from petune.model.backbone import Backbone
from petune.training.fitting import Fitted, reside
from petune.training.fitting_together import Fit, fit_together, shared_backbone
from petune.training.starting import start_from
from petune.tuner import Tuner


@dataclass(frozen=True)
class Job:
    """One fit of several: a tuner, and what `Tuner.fit` would take.

    Args:
        tuner: holds what was learnt, as after its own `fit`.
        train, eval_data, config, continue_from, callbacks: as for `Tuner.fit`.

    Examples:
        >>> Job(Tuner(backbone), rows, config=TrainConfig(epochs=1)).tuner.name
        'default'
    """

    tuner: Tuner
    train: Any
    eval_data: Any = None
    config: TrainConfig | None = None
    continue_from: str | Path | Tuner | None = None
    callbacks: Sequence[Any] = ()


def fit_many(jobs: Sequence[Job | tuple[Any, ...]], *, resume: str | None = None) -> list[Tuner]:
    """Trains an adapter for every job at the same time, on one backbone, in one process.

    Each adapter has its own data, optimizer, schedule, early stop and report, and learns what it would learn alone: the
    loss curves agree to rounding without dropout. A forward of the backbone takes the next batch of every job, so it
    has as many rows as all batches together. A run that ends, early or not, leaves the others alone.

    The backbone is shared: give every Tuner the same model, or the same folder or hub id; then the first one's model
    serves all, and the others' is let go. `mixed_precision`, `gradient_checkpointing` and `backbone_dropout` act on it,
    so all jobs must agree on them.

    Args:
        jobs: `Job` objects, or tuples (tuner, train, eval_data, config) of which the last two may be left out.
        resume: `"auto"`: every job goes on from the newest checkpoint in its `output_dir`, if there is one.

    Returns:
        The tuners, in the order of the jobs.

    Raises:
        ConfigError: no jobs, one tuner twice, knobs that contradict each other.
        AdapterError: `full`, and methods of peft: they cannot share a backbone.
        BackboneError: the tuners have different backbones.
        TrainingError: a loss became NaN or infinite. The other jobs are finished first, and everything good is kept.
        DataError, CheckpointError, MergeError: as `Tuner.fit`.

    Examples:
        >>> first, second = (Tuner(backbone, name=name, method=name) for name in ("lora", "prefix"))
        >>> quick = TrainConfig(epochs=1, progress="off")
        >>> [tuner.name for tuner in fit_many([(first, rows, None, quick), (second, rows, None, quick)])]
        ['lora', 'prefix']
    """
    given = [job if isinstance(job, Job) else _from_tuple(job) for job in jobs]
    _check(given, resume)
    tuners, labels = [job.tuner for job in given], _labels(given)
    for tuner in tuners:
        tuner._bank.refuse_while_merged("fit")
    homes = shared_backbone([tuner.backbone for tuner in tuners], labels)
    fits = [_fit(job, label, home) for job, label, home in zip(given, labels, homes, strict=True)]
    fit_together(fits, resume=resume)
    return tuners


def _from_tuple(job: Any) -> Job:
    if not isinstance(job, tuple) or not 2 <= len(job) <= 4:
        raise ConfigError(
            f"{job!r} is no job.",
            expected="A job is Job(tuner, train, ...) or a tuple (tuner, train, eval_data, config).",
        )
    return Job(*job)


def _check(jobs: Sequence[Job], resume: str | None) -> None:
    """What can be refused at once."""
    if not jobs:
        raise ConfigError("There are no jobs.", expected="At least one (tuner, train).")
    wrong = next((job.tuner for job in jobs if not isinstance(job.tuner, Tuner)), None)
    if wrong is not None:
        raise ConfigError(f"{wrong!r} is no Tuner.", expected="A job begins with the Tuner that will hold the adapter.")
    if len({id(job.tuner) for job in jobs}) < len(jobs):
        raise ConfigError(
            "One tuner has several jobs.",
            expected="A tuner holds one adapter, so each job needs a tuner of its own.",
            fix="Make another: Tuner(the same model, name=...).",
        )
    if resume not in (None, "auto"):
        raise ConfigError(
            f"resume={resume!r} names one place for several runs.",
            expected="None or 'auto', which looks into the output_dir of every job.",
        )


def _labels(jobs: Sequence[Job]) -> list[str]:
    """A name for each job in messages: the adapter's, with the job's number where it does not tell them apart."""
    many = Counter(job.tuner.name for job in jobs)
    names = ((index, job.tuner.name) for index, job in enumerate(jobs, start=1))
    return [name if many[name] == 1 else f"{name} (job {index})" for index, name in names]


def _fit(job: Job, label: str, home: Backbone) -> Fit:
    tuner = job.tuner
    return Fit(
        home, tuner.name, label, tuner.task, tuner.method, tuner.tokenizer, job.train, job.eval_data,
        as_config(job.config), start=start_from(job.continue_from, home), callbacks=job.callbacks,
        keep=_keeping(tuner, home),
    )  # fmt: skip


def _keeping(tuner: Tuner, home: Backbone) -> Callable[[Fitted], None]:
    """What puts a settled adapter into its tuner, which moves to the shared backbone if it had a copy of its own."""

    def keep(fitted: Fitted) -> None:
        if tuner.backbone is not home:
            tuner._settle_on(home)
        reside(tuner._bank, fitted.adapter)
        tuner._keep(fitted)

    return keep
