"""Rows of several adapters: prepared by each one's task, run in shared batches, answered in each one's labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from petune.data.batching import ordered_batches
from petune.data.preparing import prepare, tell
from petune.data.sources import read
from petune.errors import DataError, RouteError
from petune.model.adapter import Adapter
from petune.model.bank import Contents
from petune.model.generating import refuse_unless_writing, seeds_of
from petune.model.modes import evaluating
from petune.model.running import run
from petune.residents import Portion, Residents
from petune.tasks._padding import Side, pad_inputs, shapes, told
from petune.tasks._writing import WritingTask
from petune.tasks.base import Example, Table, Task
from petune.training.batches import length_of
from petune.training.writing import Prompt, write_texts


def names_of(texts: Sequence[Any], named: Any) -> list[str]:
    """One name for each text.

    Args:
        named: one for all, or one for each; None: nobody was named.

    Raises:
        DataError: a single text.
        RouteError: no names, or another number of them.
    """
    if isinstance(texts, str):
        raise DataError("One string was given.", expected="A list of texts was expected.", fix="Write [text].")
    given = [named] * len(texts) if named is None or isinstance(named, str) else list(named)
    names: list[Any] = [name for name in given if name is not None]
    if named is None or len(names) < len(given):
        raise RouteError("No adapter was named.", fix="Pass adapters=..., or set a default with use(name).")
    if len(names) != len(texts):
        raise RouteError(f"{len(names)} adapters were named for {len(texts)} texts.", expected="One name per text.")
    odd = next((name for name in names if not isinstance(name, str)), None)
    if odd is not None:
        raise RouteError(f"{odd!r} is no adapter's name.", expected="One name per text.")
    return names


Read = Callable[[Task, list[Any], list[Example]], Sequence[Any]]
"""From a task, its examples' logits and the examples to one answer per row."""
Way = Callable[[Residents, Portion, Any, int], dict[int, Any]]
"""From residents, rows with their adapters, all texts and a batch size to what each row gets."""


def rows_of(names: Mapping[int, str]) -> dict[str, list[int]]:
    """The rows of each adapter, in the order of their first rows."""
    found: dict[str, list[int]] = {}
    for row, name in names.items():
        found.setdefault(name, []).append(row)
    return found


def predicted(residents: Residents, portion: Portion, texts: Any, batch_size: int) -> dict[int, Any]:
    """Each row's prediction: an answer in its adapter's labels, or the text that a language model writes."""
    adapters = portion.contents.adapters
    writing = {row: name for row, name in portion.rows.items() if adapters[name].task.generates}
    others = {row: name for row, name in portion.rows.items() if row not in writing}
    written = texts_of(residents, portion._replace(rows=writing), texts, batch_size, {})
    read = _answers(residents, portion._replace(rows=others), texts, batch_size, lambda task, *it: task.answers(*it))
    return {**written, **read}


def probabilities(residents: Residents, portion: Portion, texts: Any, batch_size: int) -> dict[int, Any]:
    """Each row's probabilities."""
    return _answers(residents, portion, texts, batch_size, lambda task, *those: task.probabilities(*those))


def _answers(residents: Residents, portion: Portion, texts: Any, batch_size: int, reading: Read) -> dict[int, Any]:
    """Each row's answer by its own adapter, as it was when the call began.

    Args:
        portion: which rows, and who serves them.

    Raises:
        DataError: items that are no text, with their row.
    """
    places, examples = _prepared(residents, portion, texts, {})
    bank = residents.bank
    # Residents are in eval mode always; the backbone is its owner's.
    with evaluating(bank.backbone.model):
        logits = _logits(residents, portion.contents, examples, batch_size)
    found: dict[int, Any] = {}
    for adapter, rows in places.items():
        own = [index for index, (of, _) in enumerate(examples) if of is adapter]
        read = reading(adapter.task, [logits[i] for i in own], [examples[i][1] for i in own])
        found.update(zip(rows, read, strict=True))
    return found


def texts_of(
    residents: Residents, portion: Portion, texts: Any, batch_size: int, options: Mapping[str, Any]
) -> dict[int, Any]:
    """What each row's own language model writes after it.

    Args:
        options: of `generate`, and `seed`.

    Raises:
        AdapterError: an adapter that writes no texts.
        DataError: items that are no text, with their row.
    """
    for name in dict.fromkeys(portion.rows.values()):
        refuse_unless_writing(portion.contents.adapters[name])
    places, examples = _prepared(residents, portion, texts, options)
    order = [row for rows in places.values() for row in rows]
    prompts = [Prompt(adapter, residents.tokenizer(adapter), example) for adapter, example in examples]
    seeds = seeds_of(options.get("seed", 0), len(texts))
    more = {**options, "seed": [seeds[row] for row in order], "places": order}
    written = write_texts(
        lambda route: residents.bank.frame(route, portion.contents), prompts, batch_size=batch_size, **more
    )
    return dict(zip(order, written, strict=True))


def _prepared(
    residents: Residents, portion: Portion, texts: Any, options: Mapping[str, Any]
) -> tuple[dict[Adapter, list[int]], list[tuple[Adapter, Example]]]:
    """The rows of each adapter, and all examples in that order; prompts leave the room that `options` ask for."""
    adapters = portion.contents.adapters
    examples: list[tuple[Adapter, Example]] = []
    places = {adapters[name]: rows for name, rows in rows_of(portion.rows).items()}
    for adapter, rows in places.items():
        table = _some(adapter.task, texts, rows)
        tokenizer, backbone = residents.tokenizer(adapter), residents.bank.backbone
        positions, vocabulary = backbone.positions_for(adapter.method), backbone.vocabulary
        task = adapter.task.leaving_room(options) if isinstance(adapter.task, WritingTask) else adapter.task
        made = prepare(task, table, None, tokenizer, positions, 0, vocabulary=vocabulary, labelled=False)
        tell(made.warnings, residents.told(adapter))
        examples += [(adapter, example) for example in made.train]
    return places, examples


def _logits(
    residents: Residents, contents: Contents, examples: Sequence[tuple[Adapter, Example]], batch_size: int
) -> list[Any]:
    """One array per example; examples of similar length share a batch, whatever their adapter."""
    found: list[Any] = [None] * len(examples)
    # Rows padded by one tokenizer share batches; adapters of one backbone nearly always have the same.
    kinds: dict[str, list[int]] = {}
    adapters = dict.fromkeys(adapter for adapter, _ in examples)
    sides = {adapter: _side(adapter.task, residents.tokenizer(adapter)) for adapter in adapters}
    padding = {adapter: f"{_padding(residents.tokenizer(adapter))} {side}" for adapter, side in sides.items()}
    for index, (adapter, example) in enumerate(examples):
        part = adapter.task.parts(example)[0]  # what a batch tells of one row it tells of all
        kinds.setdefault(f"{padding[adapter]} {shapes(part)} {sorted(told(part))}", []).append(index)
    for kind in kinds.values():
        lengths = [length_of(examples[index][1]) for index in kind]
        for batch in ordered_batches(lengths, batch_size):
            indices = [kind[place] for place in batch]
            for index, logits in zip(indices, _run(residents, contents, [examples[i] for i in indices]), strict=True):
                found[index] = logits
    return found


def _run(residents: Residents, contents: Contents, batch: list[tuple[Adapter, Example]]) -> list[Any]:
    """Runs one batch; each example's logits."""
    bank, tokenizer = residents.bank, residents.tokenizer(batch[0][0])
    parts = [adapter.task.parts(example) for adapter, example in batch]
    inputs = pad_inputs([part for some in parts for part in some], tokenizer, _side(batch[0][0].task, tokenizer))
    inputs = {name: tensor.to(bank.backbone.device) for name, tensor in inputs.items()}
    names = [adapter.name for (adapter, _), some in zip(batch, parts, strict=True) for _ in some]
    # One name alone is a route that also holds while that adapter is merged.
    alone = len(set(names)) == 1
    output = run(bank, bank.frame(names[0] if alone else names, contents), inputs)
    answered = iter(batch[0][0].task.logits(output, inputs) if alone else output.logits)
    return [
        adapter.task.split(torch.stack([next(answered) for _ in some]), [example])[0]
        for (adapter, example), some in zip(batch, parts, strict=True)
    ]


def _some(task: Task, texts: Any, rows: list[int]) -> Table:
    """The rows of one adapter, called by their places among all of them."""
    if hasattr(texts, "columns") or hasattr(texts, "column_names"):
        return read(texts).take(rows)
    plain = texts.tolist() if hasattr(texts, "tolist") else texts
    table = task.table([plain[row] for row in rows])
    return dataclasses.replace(table, place=lambda index: f"row {rows[index]}")


def _side(task: Task, tokenizer: Any) -> Side:
    """On which side a task's rows are padded."""
    own: Side = getattr(tokenizer, "padding_side", "right")
    return task.side or own


def _padding(tokenizer: Any) -> str:
    """Equal for tokenizers whose rows may share a batch: they pad alike."""
    pad = getattr(tokenizer, "pad_token_id", None)
    return f"{type(tokenizer).__name__} {pad} {sorted(tokenizer.model_input_names)}"
