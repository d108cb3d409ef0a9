"""Several fits at once, from data to adapters that have settled: the backbone runs once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from petune.config import TrainConfig
from petune.data.preparing import Prepared, prepare, tell
from petune.errors import AdapterError, BackboneError, TrainingError
from petune.lookup import name_of
from petune.methods.base import Method
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.learner import Learner
from petune.storage.packing import fingerprint, identity
from petune.tasks.base import Task
from petune.training.data_figures import data_figures
from petune.training.fitting import Fitted, Given, fresh, settled
from petune.training.loop import train_together
from petune.training.progress import say
from petune.training.report import TrainReport
from petune.training.starting import Start
from petune.training.tracking import refuse_trackers
from petune.training.trainee import Trainee


@dataclass(frozen=True)
class Fit:
    """One fit of several.

    Args:
        name: of the adapter.
        label: for messages; no two fits have the same.
        start: the task, method and weights that the new adapter starts from.
        keep: called with what is good, once all have ended.
    """

    backbone: Backbone
    name: str
    label: str
    task: Task
    method: Method
    tokenizer: Any
    train: Any
    eval_data: Any
    config: TrainConfig
    start: Start | None
    callbacks: Sequence[Any]
    keep: Callable[[Fitted], None]


def fit_together(fits: Sequence[Fit], *, resume: str | None) -> None:
    """Reads all data, builds every adapter under its own seed, trains them, and hands the settled ones to `keep`.

    Until the last run has ended nothing is kept, so a fit that is broken off leaves everything as it was.

    Raises:
        AdapterError: a method that cannot share the backbone.
        DataError, ConfigError, CheckpointError: as `Tuner.fit`.
        TrainingError: some runs went wrong; everything that is good was kept, of those the last good adapter.
    """
    for one in fits:
        _refuse_alone(one)
        refuse_trackers(one.config)
        fingerprint(one.backbone)  # before anything is put into the backbone
    data = _prepared(fits)
    _say_once(fits, data)
    bank = Bank(fits[0].backbone)  # of this fit alone: adapters of the same name do not meet
    adapters: list[Adapter] = []
    try:
        for one, rows in zip(fits, data, strict=True):
            adapters.append(fresh(one.backbone, one.name, rows.task, one.method, one.start, one.config.seed))
            bank.add(adapters[-1].renamed(one.label))
        learners = [Learner(bank, adapter.renamed(one.label)) for adapter, one in zip(adapters, fits, strict=True)]
        outcomes = train_together(_trainees(fits, data, learners), resume=resume)
    finally:
        for name in list(bank.residents):
            bank.remove(name)
    for one, rows, adapter, outcome in zip(fits, data, adapters, outcomes, strict=True):
        report = outcome if isinstance(outcome, TrainReport) else None
        if report is not None:
            report.notices[:0] = [*rows.notices, *rows.warnings]
            report.data = data_figures(rows)
        given = Given(_task(one), one.train, one.eval_data, one.config)
        one.keep(Fitted(settled(adapter, rows, one.config, report), report, given))
    _raise_failures(fits, outcomes)


def _refuse_alone(one: Fit) -> None:
    """Refuses a method that cannot share the backbone."""
    method = one.start.method if one.start else one.method
    if method.residence != "shared":
        how = "trains a backbone of its own" if method.residence == "private" else "replaces modules of the backbone"
        raise AdapterError(
            f"{one.label!r} cannot be trained with others: the method {name_of('methods', method)!r} {how}.",
            expected="In a joint fit all adapters act on one backbone, each on its own rows.",
            fix="Fit it alone, with Tuner.fit.",
        )


def _prepared(fits: Sequence[Fit]) -> list[Prepared]:
    """The data of each fit; what several fits have in common is read and encoded once."""
    made: list[Prepared] = []
    for one in fits:
        twin = next((data for other, data in zip(fits, made, strict=False) if _same_data(one, other)), None)
        own = twin or prepare(
            _task(one), one.train, one.eval_data, one.tokenizer, one.backbone.positions_for(one.method),
            one.config.seed, vocabulary=one.backbone.vocabulary,
        )  # fmt: skip
        made.append(own)
    starts = (one.start.notices(one.method) if one.start else [] for one in fits)
    return [replace(data, notices=[*data.notices, *said]) for data, said in zip(made, starts, strict=True)]


def _task(one: Fit) -> Task:
    return one.start.task if one.start else one.task


def _same_data(one: Fit, other: Fit) -> bool:
    """Whether the data of two fits are encoded alike."""
    return (
        _same(one.train, other.train)
        and _same(one.eval_data, other.eval_data)
        and one.tokenizer is other.tokenizer
        and _task(one) == _task(other)
        and one.config.seed == other.config.seed
        and one.method.positions() == other.method.positions()
    )


def _same(one: Any, other: Any) -> bool:
    """Whether two data are one object, one path or one share."""
    return one is other or (isinstance(one, str | Path | float) and type(one) is type(other) and bool(one == other))


def _say_once(fits: Sequence[Fit], data: Sequence[Prepared]) -> None:
    """Prints each notice and warns of each oddity once, with the names of those that it is about unless it is all."""
    chosen: dict[str, list[str]] = {}
    odd: dict[str, list[str]] = {}
    for one, rows in zip(fits, data, strict=True):
        for notice in rows.notices if one.config.progress != "off" else ():
            chosen.setdefault(notice, []).append(one.label)
        for warning in rows.warnings:
            odd.setdefault(warning, []).append(one.label)
    for about, speak in ((chosen, say), (odd, tell)):
        speak([words if len(who) == len(fits) else f"{', '.join(who)}: {words}" for words, who in about.items()])


def _trainees(fits: Sequence[Fit], data: Sequence[Prepared], learners: Sequence[Learner]) -> list[Trainee]:
    """Who is trained on what."""
    others = len(fits) - 1
    said = [f"Trained together with {others} others: seconds and memory are those of all of them."] if others else []
    return [
        Trainee(
            learner, rows.task, one.tokenizer, rows.train, rows.evaluation, one.config, tuple(one.callbacks),
            {"backbone": identity(one.backbone)}, said, one.label,
        )
        for one, rows, learner in zip(fits, data, learners, strict=True)
    ]  # fmt: skip


def _raise_failures(fits: Sequence[Fit], outcomes: Sequence[TrainReport | TrainingError]) -> None:
    """One error for all runs that went wrong."""
    wrong = [(one.label, it) for one, it in zip(fits, outcomes, strict=True) if isinstance(it, TrainingError)]
    if len(wrong) == 1 == len(fits):
        raise wrong[0][1]
    if wrong:
        raise TrainingError(
            "\n".join([f"{len(wrong)} of {len(fits)} runs went wrong:", *(f"  {name}: {it}" for name, it in wrong)]),
            expected="\nThe others went on to their ends; every tuner holds its last good adapter.",
            fix="",
        )


def shared_backbone(backbones: Sequence[Backbone], labels: Sequence[str]) -> list[Backbone]:
    """The backbone of each fit, all around one model.

    Tuners that were given one model share it already. One that opened the same weights anew moves to the first one's.

    Raises:
        BackboneError: other weights, or the same ones in another precision, on another device or with another padding.
    """
    first = backbones[0]
    return [_moved(first, labels[0], other, label) for other, label in zip(backbones, labels, strict=True)]


def _moved(first: Backbone, first_label: str, other: Backbone, label: str) -> Backbone:
    """The backbone itself where it is around the same model, else the first one in its place."""
    if other.model is first.model:
        return other
    for what, of_first, of_other in (
        ("their architecture", first.model_type, other.model_type),
        ("precision", first.dtype, other.dtype),
        ("quantisation", first.quantized, other.quantized),
        ("device", first.device, other.device),
        ("the pad piece", first.pad_token_id, other.pad_token_id),
        ("their weights", fingerprint(first), fingerprint(other)),
    ):
        if of_first != of_other:
            raise BackboneError(
                f"The backbones of {first_label!r} and {label!r} differ in {what}: {of_first} and {of_other}.",
                expected="A joint fit trains adapters on one backbone.",
                fix="Load the model once and pass it to every Tuner, or fit these adapters apart.",
            )
    return first
