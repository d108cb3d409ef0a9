"""The rows behind the figures: which ones a report looks at, and what the adapter makes of each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from petune.data.batching import ordered_batches
from petune.data.preparing import prepare
from petune.data.sources import read
from petune.data.splitting import fingerprint, hold_out
from petune.errors import ConfigError
from petune.model.learner import Learner
from petune.model.modes import evaluating
from petune.tasks.base import Example, Table, Task
from petune.training.batches import length_of, on_device
from petune.training.evaluation import device_of
from petune.training.fitting import Given
from petune.training.report import EvalReport
from petune.training.using import Work

MOST_TRAINING_ROWS = 2000
"""Without evaluation rows so many training rows are looked at; all that were given are."""
BATCH = 32


class Choice(NamedTuple):
    """Rows to look at, what they are in words, and what must be said of them."""

    table: Table
    words: str
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Looked:
    """What an adapter makes of labelled rows; all lists are in the order of `rows`.

    Args:
        rows: the indices into `table`.
        given, answered: references and answers in the form of the task; empty for a task that writes texts.
        probabilities: as the task gives them; None where it has none.
        losses: the mean over the supervised items of each row.
        figures: those of `evaluate`.
    """

    choice: Choice
    rows: list[int]
    given: list[Any]
    answered: list[Any]
    probabilities: Any
    losses: list[float]
    figures: EvalReport


def chosen(work: Work, given: Given | None, data: Any) -> Choice | None:
    """The rows to look at: those that were handed over, else the fit's evaluation rows, else its training rows.

    Raises:
        DataError: rows that cannot be read (any more).
    """
    if data is not None:
        return Choice(read(data, plain=work.adapter.task.plain), "the rows that were given")
    if given is None:
        return None
    fraction = given.eval_data if isinstance(given.eval_data, float | int) else None
    if given.eval_data is not None and fraction is None:
        return Choice(read(given.eval_data, part="validation", plain=given.task.plain), "the evaluation rows")
    table, held = read(given.train, plain=given.task.plain), None
    if fraction is not None:
        table, held = hold_out(table, fraction, given.config.seed, given.task.strata(table))
    known = (work.adapter.facts.get("data") or {}).get("fingerprint")
    changed = ("The training data are not those of the fit any more: they have changed since.",)
    said = changed if known is not None and known != fingerprint(table) else ()
    if held is not None:
        return Choice(held, f"the {len(held):,} held-out rows", said)
    flattering = "There were no evaluation rows: these are training rows, so the figures flatter."
    places = np.linspace(0, len(table) - 1, min(len(table), MOST_TRAINING_ROWS)).round().astype(int)
    words = "the training rows" if len(places) == len(table) else f"{len(places):,} of {len(table):,} training rows"
    return Choice(table.take(places.tolist()), words, (*said, flattering))


def look(work: Work, choice: Choice) -> Looked:
    """Runs the adapter over the rows.

    Raises:
        DataError: rows that do not fit the task.
    """
    adapter, tokenizer = work.adapter, work.tokenizer
    task, backbone = adapter.task, adapter.shell.backbone
    prepared = prepare(
        task, choice.table, None, tokenizer, backbone.positions, 0, vocabulary=backbone.vocabulary, learn=False
    )
    examples = prepared.train
    figures = work.evaluate(choice.table, (), BATCH, generate=False)
    with evaluating(*adapter.modules()):
        pieces, losses = _forward(Learner(work.bank, adapter), task, tokenizer, examples)
    rows, means = _by_row(examples, losses, task)
    answered = [] if task.generates else list(task.answers(pieces, examples))
    given = [] if task.generates else list(task.references(examples))
    if len(answered) != len(rows):  # answers that are no row's own, as of blocks of running text
        answered, given = [], []
    return Looked(choice, rows, given, answered, _probabilities(task, pieces, examples), means, figures)


def _probabilities(task: Task, pieces: Sequence[Any], examples: Sequence[Example]) -> Any:
    try:
        return None if task.generates else task.probabilities(pieces, examples)
    except ConfigError:  # a task that has none says so
        return None


def _by_row(examples: Sequence[Example], losses: Sequence[float], task: Task) -> tuple[list[int], list[float]]:
    """Rows in the order in which they first come, and the mean loss of each over all of its examples."""
    sums: dict[int, list[float]] = {}
    for example, loss in zip(examples, losses, strict=True):
        total = sums.setdefault(example["row"], [0.0, 0.0])
        total[0] += loss
        total[1] += task.count(example)
    return list(sums), [total / max(items, 1) for total, items in sums.values()]


@torch.no_grad()
def _forward(
    learner: Any, task: Task, tokenizer: Any, examples: Sequence[Example]
) -> tuple[list[np.ndarray], list[float]]:
    """The logits of every example, and the sum of the losses of its supervised items."""
    device = device_of(learner)
    pieces: dict[int, np.ndarray] = {}
    losses: dict[int, float] = {}
    learner.mode(False)
    for places in ordered_batches([length_of(example) for example in examples], BATCH):
        some = [examples[place] for place in places]
        batch = task.collate(some, tokenizer)
        logits = learner(**on_device(batch.inputs, device)).float()
        assert batch.labels is not None
        pieces.update(zip(places, task.split(logits, some), strict=True))
        losses.update(zip(places, _each(task, tokenizer, logits, batch.labels.to(device), some), strict=True))
    return [pieces[place] for place in range(len(examples))], [losses[place] for place in range(len(examples))]


def _each(task: Task, tokenizer: Any, logits: Tensor, labels: Tensor, examples: Sequence[Example]) -> list[float]:
    """The loss of each example of a batch: of its own rows of the logits, which are several where it has parts."""
    ends = list(itertools.accumulate((len(task.parts(example)) for example in examples), initial=0))
    if ends[-1] == len(examples):
        return [float(task.loss(logits[row : row + 1], labels[row : row + 1])) for row in range(len(examples))]
    losses = []
    for example, (start, end) in zip(examples, itertools.pairwise(ends), strict=True):
        own = task.collate([example], tokenizer).labels  # of several parts they may be numbers of rows in the batch
        assert own is not None
        losses.append(float(task.loss(logits[start:end], own.to(logits.device))))
    return losses
