"""From what a user hands over to encoded rows: read, split, learn labels, encode, and say what was done."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from petune.data.oddities import odd_labels, odd_rows
from petune.data.sources import read
from petune.data.splitting import fingerprint, hold_out, overlap
from petune.errors import BackboneError, DataError
from petune.tasks.base import Example, Table, Task

UNLIMITED = 512
"""Pieces per row where neither the task nor the architecture sets a limit."""


@dataclass(frozen=True)
class Prepared:
    """Data ready for the loop.

    Args:
        task: learnt.
        train: encoded rows.
        evaluation: encoded rows, or None.
        notices: what was chosen.
        warnings: what is odd, cut or dropped: it must reach the user.
        facts: for the manifest.
    """

    task: Task
    train: list[Example]
    evaluation: list[Example] | None
    notices: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def prepare(
    task: Task,
    data: Any,
    eval_data: Any,
    tokenizer: Any,
    positions: int | None,
    seed: int,
    *,
    vocabulary: int | None = None,
    learn: bool = True,
    labelled: bool = True,
) -> Prepared:
    """Reads, splits, learns labels and encodes.

    Args:
        eval_data: data, a fraction to hold out, or None.
        positions: the backbone's limit in pieces.
        vocabulary: how many pieces the backbone knows; None: any.
        learn: whether labels and columns may be learnt from the rows.
        labelled: False for rows to predict: their labels are not read.

    Raises:
        DataError: rows that cannot be used.
        ConfigError: a fraction out of range.
        BackboneError: pieces that the backbone does not know.
    """
    task.need_room(positions)
    table = rows_of(task, data, learn=learn, labelled=labelled)
    held: Table | None = None
    notices: list[str] = []
    if isinstance(getattr(data, "column_names", None), dict):
        notices.append("Of the DatasetDict the part 'train' was taken.")
    if isinstance(eval_data, float | int) and not isinstance(eval_data, bool):
        table, held = hold_out(table, float(eval_data), seed, task.strata(table))
        notices.append(f"Held out {len(held)} of {len(table) + len(held)} rows for evaluation (seed {seed}).")
    elif eval_data is not None:
        held = read(eval_data, part="validation", plain=task.plain)
    given = task
    if learn and labelled:
        whole = len(table)
        table = task.sample(table, seed)
        notices += [f"{len(table)} of {whole} rows were drawn (seed {seed})."] if len(table) < whole else []
        task = task.learn(table)
        notices += task.chosen(given)
    longest = positions or UNLIMITED
    table, held = task.unfolded(table), None if held is None else task.unfolded(held)
    encoded = task.encode(table, tokenizer, longest=longest, labelled=labelled)
    _refuse_unknown_pieces(task, encoded.examples, table, tokenizer, vocabulary)
    warnings = [*encoded.notices, *(odd_rows(task, table, encoded.examples, tokenizer) if labelled else ())]
    if learn and labelled:
        warnings += odd_labels(task, given, table, encoded.examples)
    evaluation = None
    if held is not None:
        kept = task.encode(held, tokenizer, longest=longest, labelled=True)
        evaluation = kept.examples
        _refuse_unknown_pieces(task, evaluation, held, tokenizer, vocabulary)
        odd = [*kept.notices, *odd_rows(task, held, kept.examples, tokenizer)]
        warnings += [f"In the evaluation data: {warning}" for warning in odd]
        warnings += _shared_rows(task, table, held)
    facts = {"fingerprint": fingerprint(table), "rows": len(table)} if labelled else {}
    return Prepared(task, encoded.examples, evaluation, notices, warnings, facts)


def rows_of(task: Task, data: Any, *, learn: bool, labelled: bool) -> Table:
    """A table of what was given; plain texts are rows too when there is nothing to learn from them.

    Raises:
        DataError: nothing, or several parts where only one can be meant.
    """
    if data is None:
        raise DataError("The data is None.", expected="A path, a table, a list of rows or texts was expected.")
    parts = getattr(data, "column_names", None)
    if isinstance(parts, dict) and not (learn and labelled):
        raise DataError(
            f"A DatasetDict with the parts {', '.join(map(str, parts))} was given.",
            expected="One part was expected, so that a training score cannot pass for a test score.",
            fix="Pass one part: data['test'].",
        )
    if labelled or hasattr(data, "columns") or hasattr(data, "column_names"):
        return read(data, plain=task.plain)
    return task.table(data.tolist() if hasattr(data, "tolist") else data)


def tell(notices: Sequence[str], said: set[str] | None = None) -> None:
    """Warns through the logger `petune`, which writes to the standard error unless it is told otherwise.

    Of several processes only the first one warns.

    Args:
        said: what one tuner or resident adapter has said already; it is not said again, and what is new is added.
            None starts anew.

    Examples:
        >>> said = {"1 row was cut."}
        >>> tell(["1 row was cut."], said)  # warns of nothing
    """
    said = set() if said is None else said
    for notice in notices:
        if notice not in said and os.environ.get("RANK", "0") == "0":
            logging.getLogger("petune").warning(notice)
        said.add(notice)


def _refuse_unknown_pieces(
    task: Task, examples: list[Example], table: Table, tokenizer: Any, vocabulary: int | None
) -> None:
    """Raises BackboneError for a tokenizer with more pieces than the backbone, as soon as a row has one of them."""
    if vocabulary is None or not task.texts_in or len(tokenizer) <= vocabulary:
        return
    for example in examples:
        if (largest := max(example["input_ids"], default=0)) >= vocabulary:
            raise BackboneError(
                f"{table.place(example['row'])} has the piece {largest} of the tokenizer, which knows"
                f" {len(tokenizer)} pieces; the backbone knows {vocabulary}.",
                expected="A tokenizer belongs to a backbone, and adds no piece that the backbone never saw.",
                fix="Pass the backbone's own tokenizer, or resize the backbone's embeddings first.",
            )


def _shared_rows(task: Task, train: Table, held: Table) -> list[str]:
    """What is said when texts are in both parts."""
    knobs = task.texts_in or ("text", "tokens")
    column = next((name for knob in knobs if isinstance(name := getattr(task, knob, None), str)), None)
    shared = [] if column is None else overlap(train, held, column)
    return [
        f"{len(shared)} evaluation rows occur in the training data as well (first: {held.place(shared[0])}):"
        f" the figures flatter."
        for _ in shared[:1]
    ]
