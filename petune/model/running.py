"""One call of an adapted backbone: the backbone runs once, then each adapter's head on its own rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from petune.errors import BackboneError, RouteError
from petune.model.adapter import Adapter
from petune.model.bank import Bank
from petune.model.gate import running
from petune.model.routing import Frame, Group, entered
from petune.model.supplying import Call, rows_of, supplying


@dataclass(frozen=True)
class RoutedOutput:
    """What a call with one route per row gives back.

    Args:
        logits: one tensor per row, (C,) or (T, C), each from the head of its own adapter; None for rows without one.
        last_hidden_state: (B, T, D) of the backbone; None when the batch's tasks need different backbones (T5).
    """

    logits: list[Tensor | None]
    last_hidden_state: Tensor | None


def run(bank: Bank, frame: Frame, inputs: Mapping[str, Any]) -> Any:
    """One forward under a frame; a route per row is answered with a `RoutedOutput`.

    Args:
        inputs: tensors, (B, ...) each, as the backbone takes them.

    Raises:
        RouteError: the route's length is not the batch size.
        BackboneError: rows longer than the backbone's positions.
    """
    _refuse_too_long(bank, inputs)
    with running(bank.backbone.model), entered(bank.still(frame)) as frame:
        if frame.per_row:
            return _run_rows(bank, frame, inputs)
        if frame.active:
            shell = frame.groups[0].adapter.shell
        elif frame.merged is not None:
            shell = bank.find(frame.merged).shell
        else:
            return bank.backbone.model(**inputs)
        return shell.model(**shell.inputs(inputs))


def _refuse_too_long(bank: Bank, inputs: Mapping[str, Any]) -> None:
    ids, longest = inputs.get("input_ids"), bank.backbone.positions
    if ids is not None and longest is not None and ids.shape[-1] > longest:
        raise BackboneError(
            f"The batch is {ids.shape[-1]} pieces long.",
            expected=f"This backbone has {longest} positions.",
            fix="Cut the rows: tokenizer(..., truncation=True, max_length=...).",
        )


def _run_rows(bank: Bank, frame: Frame, inputs: Mapping[str, Any]) -> RoutedOutput:
    batch = next(iter(inputs.values())).shape[0]
    if frame.batch is not None and frame.batch != batch:
        raise RouteError(
            f"The route names {frame.batch} rows, the batch has {batch}.",
            expected="A route per row needs one entry for each row.",
        )
    if not frame.active:
        return RoutedOutput([None] * batch, bank.backbone.model(**inputs).last_hidden_state)
    logits: list[Tensor | None] = [None] * batch
    kinds = _by_backbone(frame.groups)
    hidden = None
    for groups in kinds:
        # Rows that another kind of backbone call serves see the bare backbone in this one.
        with entered(frame.only(groups)):
            output, call = _backbone_once(bank, groups[0].adapter, inputs)
        hidden = output.last_hidden_state if len(kinds) == 1 else None
        for group in groups:
            everyone = torch.arange(batch, device=bank.backbone.device)
            rows = everyone if group.rows is None else group.rows
            for row, answer in zip(rows.tolist(), _head(group.adapter, output, call, inputs, rows, batch), strict=True):
                logits[row] = answer
    return RoutedOutput(logits, hidden)


def _by_backbone(groups: tuple[Group, ...]) -> list[list[Group]]:
    """Groups whose shells call the same kind of backbone (T5's token tasks use its encoder alone)."""
    kinds: dict[type, list[Group]] = {}
    for group in groups:
        kinds.setdefault(type(group.adapter.shell.base), []).append(group)
    return list(kinds.values())


def _backbone_once(bank: Bank, adapter: Adapter, inputs: Mapping[str, Any]) -> tuple[Any, Call]:
    """Runs the backbone on the whole batch, called just as the adapter's shell would call it."""
    shell = adapter.shell
    with entered(None):
        call = shell.call(inputs)
    shared = bank.backbone.model
    base = shared if type(shared) is type(shell.base) else shell.base
    return base(*call.args, **call.kwargs), call


def _head(adapter: Adapter, output: Any, call: Call, inputs: Mapping[str, Any], rows: Tensor, batch: int) -> Tensor:
    """The logits of one adapter's rows, (rows, ...), from the backbone's output."""
    shell = adapter.shell
    own = {name: rows_of(value, rows, batch) for name, value in shell.inputs(inputs).items()}
    with supplying(rows_of(output, rows, batch)):
        logits: Tensor = shell.supplied()(**own).logits
    return logits
