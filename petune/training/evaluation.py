"""Logits and figures of rows, in their order, whatever mode the learner was in before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from petune.data.batching import ordered_batches
from petune.errors import ConfigError
from petune.tasks.base import Example, Task
from petune.training.batches import length_of, on_device, states_on_device
from petune.training.ranks.dealing import ALONE, Ranks
from petune.training.report import EvalReport
from petune.training.trunk_cache import TrunkCache
from petune.training.writing import write_answers

REHEARSED = 8
"""Texts that are scored before a run."""


def evaluate(
    learner: nn.Module,
    task: Task,
    tokenizer: Any,
    examples: Sequence[Example],
    metrics: Sequence[Any],
    batch_size: int,
    device: torch.device | None = None,
    cache: TrunkCache | None = None,
    max_tokens: int | None = None,
    ranks: Ranks = ALONE,
) -> EvalReport:
    """The figures of labelled rows: `loss` and each metric.

    `loss` is the mean over supervised items, without label smoothing and class weights, so that it compares between
    runs.

    Args:
        metrics: names, `evaluate` objects or functions, as in `TrainConfig.metrics`. Those that score texts see what a
            language model writes, the others what it foretells.
        device: None: where the learner's parameters are.
        cache: what the trunk makes of these rows, where that is known.
        max_tokens: padded positions of a batch; None: any number.
        ranks: among several processes that all call this with the same rows each forwards its share of the batches
            and writes its share of the texts, and all have the figures of all rows (`petune.training.ranks.dealing`).
            Otherwise nothing is exchanged.

    Raises:
        ConfigError: a metric of texts where there is no text to compare with, or one that cannot score the answers.
    """
    from petune.metrics.base import compute, per_class  # imports evaluate, which takes seconds; predict needs it not

    device = device or device_of(learner)
    logits, loss = _forward_all(learner, task, tokenizer, examples, batch_size, device, cache, max_tokens, ranks)
    answers, references = task.answers(logits, examples), task.references(examples)
    texts = of_texts(task, examples, metrics)
    figures = compute([metric for metric in metrics if metric not in texts], answers, references, task.labels)
    mean = loss / max(sum(task.count(example) for example in examples), 1)
    figures |= {"loss": mean, **task.of_loss(mean)}
    if texts:
        written = write_answers(learner, tokenizer, examples, batch_size, ranks)
        figures |= compute(texts, written, [example["_truth"] for example in examples])
    classes = per_class(answers, references, task.labels) if task.labels else []
    return EvalReport(figures, classes, rows=len(references))


def rehearsed(task: Task, examples: Sequence[Example], metrics: Sequence[Any]) -> dict[str, float]:
    """The figures of answers that are all right, from which nothing is learnt but whether they can be computed.

    Raises:
        UnknownNameError, ConfigError: as an evaluation would.
    """
    from petune.metrics.base import compute

    texts, truth = of_texts(task, examples, metrics), task.references(examples)
    others = [metric for metric in metrics if metric not in texts]
    figures = compute(others, task.ideal(examples), truth, task.labels)
    if texts:
        right = [example["_truth"] for example in examples[:REHEARSED]]
        figures |= compute(texts, right, right)
    return {**figures, "loss": 0.0, **task.of_loss(0.0)}


def of_texts(task: Task, examples: Sequence[Example], metrics: Sequence[Any]) -> list[Any]:
    """Those metrics for which a language model must write.

    Raises:
        ConfigError: one of petune's own, where the rows hold no text to compare with.
    """
    from petune.metrics.base import scores_texts

    if not task.generates:
        return []
    found = [metric for metric in metrics if scores_texts(metric)]
    if not examples or "_truth" in examples[0]:
        return found
    if named := [metric for metric in found if not callable(metric)]:
        raise ConfigError(
            f"The metric {named[0]} compares texts, and these rows have none to compare with.",
            expected="They are whole texts, whose pieces are foretold.",
            fix="Drop it, or name a prompt and a completion.",
        )
    return []


def logits_of(
    learner: nn.Module,
    task: Task,
    tokenizer: Any,
    examples: Sequence[Example],
    batch_size: int,
    device: torch.device | None = None,
) -> list[np.ndarray]:
    """One float32 array per example, (C,) or (words, C), in the order of `examples`.

    Rows of similar length share a batch. Dropout is off; the mode from before is restored, also after an error.
    """
    return _forward_all(learner, task, tokenizer, examples, batch_size, device or device_of(learner), None)[0]


def device_of(learner: nn.Module) -> torch.device:
    """Where the learner's parameters are; the CPU for one without any."""
    first = next(learner.parameters(), None)
    return first.device if first is not None else torch.device("cpu")


def _forward_all(
    learner: Any,
    task: Task,
    tokenizer: Any,
    examples: Sequence[Example],
    batch_size: int,
    device: torch.device,
    cache: TrunkCache | None,
    max_tokens: int | None = None,
    ranks: Ranks = ALONE,
) -> tuple[list[np.ndarray], float]:
    """The logits of every row, and the sum of the losses of those that carry labels."""
    batches = ordered_batches([length_of(example) for example in examples], batch_size, max_tokens)
    pieces: dict[int, list[Any]] = {}
    losses: dict[int, Tensor] = {}
    was_training = learner.training
    learner.mode(False)
    try:
        # no_grad, not inference_mode: a buffer that the backbone makes here (rotary tables) may meet autograd later.
        with torch.no_grad():
            for number, counts in ranks.dealt(len(batches)):
                some = [examples[row] for row in batches[number]]
                batch = task.collate(some, tokenizer)
                states = states_on_device(cache, batch.inputs, device)
                known = {} if states is None else {"trunk_states": states}
                given = learner(**on_device(batch.inputs, device), **known).float()
                if not counts:
                    continue
                if batch.labels is not None:
                    losses[number] = task.loss(given, batch.labels.to(device))
                pieces[number] = list(task.split(given, some))
    finally:
        learner.mode(was_training)
    return _by_row(batches, ranks.gathered(pieces)), _sum(ranks.gathered(_on_host(losses)))


def _by_row(batches: Sequence[Sequence[int]], pieces: Mapping[int, list[Any]]) -> list[Any]:
    """What belongs to each row, in the order of the rows."""
    made = {row: piece for number, rows in enumerate(batches) for row, piece in zip(rows, pieces[number], strict=True)}
    return [made[row] for row in range(len(made))]


def _on_host(losses: Mapping[int, Tensor]) -> dict[int, float]:
    """Batch -> its loss, fetched at once."""
    values = torch.stack(list(losses.values())).double().tolist() if losses else []
    return dict(zip(losses, values, strict=True))


def _sum(losses: Mapping[int, float]) -> float:
    """Rounded once, so that it is the same whoever computed them."""
    return math.fsum(losses.values())
