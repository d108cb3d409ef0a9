"""One fit, from data to an adapter that has settled. The Tuner decides what to keep of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from petune.config import TrainConfig
from petune.data.preparing import Prepared, prepare, tell
from petune.errors import AdapterError, TrainingError
from petune.methods.base import Method
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.learner import Learner
from petune.storage.packing import facts_of, fingerprint, identity
from petune.tasks.base import Example, Task
from petune.training import loop
from petune.training.data_figures import data_figures
from petune.training.plan import Plan, make_plan
from petune.training.progress import say
from petune.training.ranks.launching import crew_for
from petune.training.report import TrainReport
from petune.training.seed import seed_everything
from petune.training.starting import Start
from petune.training.tracking import refuse_trackers


class Given(NamedTuple):
    """What a fit was given: the data as they were handed over, so that a report can look at the rows again."""

    task: Task
    train: Any
    eval_data: Any
    config: TrainConfig


class Fitted(NamedTuple):
    """A settled adapter, resident in its bank, what happened on the way, and what the fit was given."""

    adapter: Adapter
    report: TrainReport | None
    given: Given | None = None


def fit(
    bank: Bank,
    name: str,
    task: Task,
    method: Method,
    tokenizer: Any,
    train: Any,
    eval_data: Any,
    config: TrainConfig,
    *,
    start: Start | None,
    resume: str | Path | None,
    callbacks: list[Any],
    keep: Callable[[Fitted | None], None],
    processes: int | None = None,
) -> None:
    """Reads the data, builds an adapter under the seed, trains it, and hands the settled one to `keep`.

    Bad data is found before anything changes: the tuner's old adapter then stays.

    Args:
        start: the task, method and weights that the new adapter starts from.
        keep: called with what is good, also when the run went wrong after a good start; with None when nothing is.
        processes: to launch; None or 1: this one trains, alone or with those of the launch that it is in.

    Raises:
        DataError, TrainingError, CheckpointError: see `Tuner.fit`.
    """
    backbone = bank.backbone
    fingerprint(backbone)  # before anything is put into the backbone
    refuse_trackers(config)
    given = Given(start.task if start else task, train, eval_data, config)
    data = prepare(
        given.task, train, eval_data, tokenizer, backbone.positions_for(start.method if start else method),
        config.seed, vocabulary=backbone.vocabulary,
    )  # fmt: skip
    _need_size(backbone, data.train)
    data.notices.extend(start.notices(method) if start else [])
    if config.progress != "off":
        say(data.notices)
    tell(data.warnings)
    before = bank.remove(name) if name in bank.residents else None
    try:
        crew = crew_for(processes, backbone, name, method, tokenizer, data, config, start, resume)
        adapter = fresh(backbone, name, data.task, method, start, config.seed)
        reside(bank, adapter)
        learner = Learner(bank, adapter)
        report = crew.train(learner, callbacks) if crew is not None else loop.train(
            learner, data.task, tokenizer, data.train, data.evaluation, config,
            resume=resume, callbacks=callbacks, identity={"backbone": identity(backbone)},
        )  # fmt: skip
    except TrainingError:
        keep(Fitted(_settle(bank, adapter, data, config, None), None, given))
        raise
    except BaseException:
        if name in bank.residents:
            bank.remove(name)
        if before is not None and before.method.residence == "shared":
            bank.add(before)
        elif before is not None:
            keep(None)  # what was put into modules was taken out for good
        raise
    report.notices[:0] = [*data.notices, *data.warnings]
    report.data = data_figures(data)
    keep(Fitted(_settle(bank, adapter, data, config, report), report, given))


def plan(
    bank: Bank, task: Task, method: Method, tokenizer: Any, data: Any, config: TrainConfig, *, timed: bool = False
) -> Plan:
    """What a fit would do, and with `data` for how many steps of which length; `timed`: and how long they would take.

    Raises:
        DataError: as `fit`.
        AdapterError: an adapter of a method from peft is resident.
        MergeError: while merged.
    """
    bank.refuse_while_merged("make a plan")
    alone = [name for name, adapter in bank.residents.items() if adapter.method.residence == "sole"]
    if alone:
        raise AdapterError(
            f"There is no plan while {alone[0]!r} is here: it is a method from peft and has replaced modules.",
            expected="A plan tries the method out, on the backbone as it was.",
            fix="Call plan before fit, or on a new Tuner with a backbone of its own.",
        )
    backbone = bank.backbone
    if data is None:
        return make_plan(backbone, method, task, config)
    positions, vocabulary = backbone.positions_for(method), backbone.vocabulary
    prepared = prepare(task, data, None, tokenizer, positions, config.seed, vocabulary=vocabulary)
    _need_size(backbone, prepared.train)
    return make_plan(backbone, method, prepared.task, config, prepared.train, tokenizer, timed=timed)


def _need_size(backbone: Backbone, examples: Sequence[Example]) -> None:
    """Raises ConfigError for pictures that the backbone cannot take; all of a fit are of one size."""
    if examples and "pixel_values" in examples[0]:
        backbone.need_size(*examples[0]["pixel_values"].shape[-2:])


def reside(bank: Bank, adapter: Adapter) -> None:
    """Makes an adapter resident, where its method can be."""
    if adapter.method.residence != "private":
        bank.add(adapter)


def fresh(backbone: Backbone, name: str, task: Task, method: Method, start: Start | None, seed: int) -> Adapter:
    """An adapter whose first weights come from the seed, or are those to start from."""
    seed_everything(seed)
    adapter = Adapter.make(backbone, name, start.method if start else method, task)
    if start is not None:
        adapter.load(start.layers, start.head)
    return adapter


def settled(adapter: Adapter, data: Prepared, config: TrainConfig, report: TrainReport | None) -> Adapter:
    """The adapter to keep: AdaLoRA is a LoRA from here on."""
    made = adapter.settled()
    made.facts.update(facts_of(adapter, data.facts, config, report.best if report else {}))
    return made


def _settle(bank: Bank, adapter: Adapter, data: Prepared, config: TrainConfig, report: TrainReport | None) -> Adapter:
    """The settled adapter, resident in place of the one that was trained."""
    made = settled(adapter, data, config, report)
    if made.method.residence != "private":
        bank.settle(made)
    return made
