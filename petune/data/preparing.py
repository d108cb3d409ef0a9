"""What both doors (Tuner and AdaptedModel) do with what users hand them: names, tokenizers, data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import AutoTokenizer

from petune.data.sources import read
from petune.data.splitting import fingerprint, hold_out, overlap
from petune.errors import BackboneError, ConfigError
from petune.lookup import find
from petune.methods.base import Method
from petune.model.backbone import Backbone, quiet
from petune.tasks.base import Example, Table, Task

UNLIMITED = 512
"""Pieces per row where neither the task nor the architecture sets a limit."""


def as_task(task: str | Task) -> Task:
    """A task by name, or as it is.

    Raises:
        UnknownNameError: no such task.
        ConfigError: something that is no task.
    """
    if isinstance(task, Task):
        return task
    if isinstance(task, str):
        return find("tasks", task)()  # type: ignore[no-any-return]
    raise ConfigError(f"{task!r} is no task.", expected="A task is a name or an instance of petune.tasks.base.Task.")


def as_method(method: Any) -> Method:
    """A method by name, as it is, or around a `peft.PeftConfig`.

    Raises:
        UnknownNameError: no such method.
        ConfigError: something that is no method.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        return find("methods", method)()  # type: ignore[no-any-return]
    if hasattr(method, "peft_type"):
        return find("methods", "peft")(config=method)  # type: ignore[no-any-return]
    raise ConfigError(
        f"{method!r} is no method.", expected="A method is a name, a petune method or a peft.PeftConfig instance."
    )


def open_tokenizer(tokenizer: Any, backbone: Backbone, task: Task | None = None) -> Any:
    """The given tokenizer, or the one that lies beside the backbone; the backbone learns its pad piece.

    Raises:
        BackboneError: none is to be found.
    """
    if tokenizer is None or isinstance(tokenizer, str):
        tokenizer = _beside(tokenizer or backbone.source, task)
    if backbone.pad_token_id is None:
        backbone.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def _beside(source: str, task: Task | None) -> Any:
    """The tokenizer of a folder or hub id."""
    knobs = getattr(type(task), "tokenizer_kwargs", {})
    try:
        with quiet():
            if not source:
                raise OSError("the backbone came without a name")
            return AutoTokenizer.from_pretrained(source, **knobs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackboneError(
            f"No tokenizer was found for the backbone {source!r}.",
            expected="It lies in the same folder or repository as the backbone.",
            fix="Pass tokenizer=..., or save one there with tokenizer.save_pretrained(folder).",
        ) from error


@dataclass(frozen=True)
class Prepared:
    """Data ready for the loop.

    Args:
        task: learnt.
        train: encoded rows.
        evaluation: encoded rows, or None.
        notices: what was chosen, truncated or dropped.
        facts: for the manifest.
    """

    task: Task
    train: list[Example]
    evaluation: list[Example] | None
    notices: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def prepare(
    task: Task,
    data: Any,
    eval_data: Any,
    tokenizer: Any,
    positions: int | None,
    seed: int,
    *,
    learn: bool = True,
    labelled: bool = True,
) -> Prepared:
    """Reads, splits, learns labels and encodes.

    Args:
        eval_data: data, a fraction to hold out, or None.
        positions: the backbone's limit in pieces.
        learn: whether labels and columns may be learnt from the rows.
        labelled: False for rows to predict: their labels are not read.

    Raises:
        DataError: rows that cannot be used.
        ConfigError: a fraction out of range.
    """
    table = _rows(task, data, labelled)
    held: Table | None = None
    notices: list[str] = []
    if isinstance(eval_data, float | int) and not isinstance(eval_data, bool):
        table, held = hold_out(table, float(eval_data), seed, task.strata(table))
        notices.append(f"Held out {len(held)} of {len(table) + len(held)} rows for evaluation (seed {seed}).")
    elif eval_data is not None:
        held = read(eval_data, part="validation")
    if learn and labelled:
        given, task = task, task.learn(table)
        notices += task.chosen(given)
    longest = positions or UNLIMITED
    encoded = task.encode(table, tokenizer, longest=longest, labelled=labelled)
    notices += encoded.notices
    evaluation = None
    if held is not None:
        kept = task.encode(held, tokenizer, longest=longest, labelled=True)
        evaluation = kept.examples
        notices += [f"In the evaluation data: {notice}" for notice in kept.notices]
        if shared := _shared_rows(task, table, held):
            notices.append(f"{shared} evaluation rows occur in the training data as well: the figures flatter.")
    facts = {"fingerprint": fingerprint(table), "rows": len(table)} if labelled else {}
    return Prepared(task, encoded.examples, evaluation, notices, facts)


def _rows(task: Task, data: Any, labelled: bool) -> Table:
    """A table of what was given; plain texts are rows too when there is nothing to learn from them."""
    if labelled or hasattr(data, "columns") or hasattr(data, "column_names"):
        return read(data)
    return task.table(data)


def _shared_rows(task: Task, train: Table, held: Table) -> int:
    """Evaluation rows whose text is a training text as well."""
    column = getattr(task, "text", None) or getattr(task, "tokens", None)
    return overlap(train, held, column) if isinstance(column, str) else 0
