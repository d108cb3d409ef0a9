"""Rows of several adapters: prepared by each one's task, run in shared batches, answered in each one's labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from petune.data.batching import ordered_batches
from petune.data.preparing import prepare, tell
from petune.data.sources import read
from petune.model.adapter import Adapter
from petune.model.bank import Contents
from petune.model.modes import evaluating
from petune.model.running import run
from petune.residents import Portion, Residents
from petune.tasks._padding import pad_inputs
from petune.tasks.base import Example, Table, Task

Read = Callable[[Task, list[Any], list[Example]], Sequence[Any]]
"""From a task, its examples' logits and the examples to one answer per row."""


def rows_of(names: Mapping[int, str]) -> dict[str, list[int]]:
    """The rows of each adapter, in the order of their first rows."""
    found: dict[str, list[int]] = {}
    for row, name in names.items():
        found.setdefault(name, []).append(row)
    return found


def answers(residents: Residents, portion: Portion, texts: Any, batch_size: int, reading: Read) -> dict[int, Any]:
    """Each row's answer by its own adapter, as it was when the call began.

    Args:
        portion: which rows, and who serves them.

    Raises:
        DataError: items that are no text, with their row.
    """
    bank, adapters = residents.bank, portion.contents.adapters
    examples: list[tuple[Adapter, Example]] = []
    places = {adapters[name]: rows for name, rows in rows_of(portion.rows).items()}
    for adapter, rows in places.items():
        table = _some(adapter.task, texts, rows)
        tokenizer, positions = residents.tokenizer(adapter), bank.backbone.positions
        made = prepare(adapter.task, table, None, tokenizer, positions, 0, labelled=False)
        tell(made.notices, residents.told(adapter))
        examples += [(adapter, example) for example in made.train]
    # Residents are in eval mode always; the backbone is its owner's.
    with evaluating(bank.backbone.model):
        logits = _logits(residents, portion.contents, examples, batch_size)
    found: dict[int, Any] = {}
    for adapter, rows in places.items():
        own = [index for index, (of, _) in enumerate(examples) if of is adapter]
        read = reading(adapter.task, [logits[i] for i in own], [examples[i][1] for i in own])
        found.update(zip(rows, read, strict=True))
    return found


def _logits(
    residents: Residents, contents: Contents, examples: Sequence[tuple[Adapter, Example]], batch_size: int
) -> list[Any]:
    """One array per example; examples of similar length share a batch, whatever their adapter."""
    found: list[Any] = [None] * len(examples)
    # Rows padded by one tokenizer share batches; adapters of one backbone nearly always have the same.
    kinds: dict[str, list[int]] = {}
    padding = {adapter: _padding(residents.tokenizer(adapter)) for adapter in {adapter for adapter, _ in examples}}
    for index, (adapter, _) in enumerate(examples):
        kinds.setdefault(padding[adapter], []).append(index)
    for kind in kinds.values():
        for batch in ordered_batches([len(examples[index][1]["input_ids"]) for index in kind], batch_size):
            indices = [kind[place] for place in batch]
            for index, logits in zip(indices, _run(residents, contents, [examples[i] for i in indices]), strict=True):
                found[index] = logits
    return found


def _run(residents: Residents, contents: Contents, batch: list[tuple[Adapter, Example]]) -> list[Any]:
    """Runs one batch; each example's logits."""
    bank, tokenizer = residents.bank, residents.tokenizer(batch[0][0])
    inputs = pad_inputs([example for _, example in batch], tokenizer, tokenizer.padding_side)
    inputs = {name: tensor.to(bank.backbone.device) for name, tensor in inputs.items()}
    output = run(bank, bank.frame([adapter.name for adapter, _ in batch], contents), inputs)
    return [
        adapter.task.split(logits.unsqueeze(0), [example])[0]
        for logits, (adapter, example) in zip(output.logits, batch, strict=True)
    ]


def _some(task: Task, texts: Any, rows: list[int]) -> Table:
    """The rows of one adapter, called by their places among all of them."""
    if hasattr(texts, "columns") or hasattr(texts, "column_names"):
        return read(texts).take(rows)
    plain = texts.tolist() if hasattr(texts, "tolist") else texts
    table = task.table([plain[row] for row in rows])
    return dataclasses.replace(table, place=lambda index: f"row {rows[index]}")


def _padding(tokenizer: Any) -> str:
    """Equal for tokenizers whose rows may share a batch: they pad alike."""
    return f"{tokenizer.pad_token_id} {tokenizer.padding_side} {sorted(tokenizer.model_input_names)}"
