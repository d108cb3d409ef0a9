"""An adapter that has learnt nothing, where the backbone itself gives the answers."""

from __future__ import annotations

from typing import Any

from petune.data.preparing import rows_of
from petune.errors import ConfigError
from petune.lookup import name_of
from petune.methods.base import Method
from petune.model.adapter import Adapter
from petune.model.bank import Bank
from petune.storage.packing import fingerprint
from petune.tasks.base import Task
from petune.training.fitting import Fitted, reside


def untrained(bank: Bank, name: str, task: Task, method: Method, data: Any) -> Fitted:
    """A fresh adapter that leaves the backbone's answers as they are, resident in its bank.

    Args:
        data: rows from which the task learns columns and labels; None: its knobs say all.

    Raises:
        ConfigError: a task with a head that must learn, or a method whose fresh adapter changes the answers.
        DataError: rows that cannot be used.
        MergeError: while merged.
    """
    if not _silent(method):
        raise ConfigError(
            f"A fresh adapter of the method {name_of('methods', method)!r} is no zero-shot answer.",
            expected="It must leave the backbone's answers as they are.",
            fix="Use method='lora' for zero_shot; fit can be of any method.",
        )
    bank.refuse_while_merged("begin anew")
    fingerprint(bank.backbone)
    ready = task.ready() if data is None else task.learn(rows_of(task, data, learn=True, labelled=True))
    adapter = Adapter.make(bank.backbone, name, method, ready)
    if adapter.head():
        raise ConfigError(
            f"The task {name_of('tasks', task)!r} has a head here, which answers at random until it learns.",
            expected="zero_shot is for tasks that a pretrained language model answers in its own words.",
            fix="Use task='prompt-classification' on a language model, or call fit.",
        )
    reside(bank, adapter)
    return Fitted(adapter.settled(), None)


def ways(task: Task, method: Method) -> str:
    """The calls of a `Tuner` that give it an adapter."""
    asked = _silent(method) and type(task).ready is not Task.ready  # it answers without having seen a row
    return f"fit(train){', zero_shot()' if asked else ''} or Tuner.load(folder)"


def _silent(method: Method) -> bool:
    """Whether a fresh adapter leaves the backbone's answers as they are."""
    return method.identity_at_start and method.residence != "private"
