"""One call of an adapted backbone: the backbone runs once, then each adapter's head on its own rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from petune.errors import BackboneError, RouteError
from petune.model.adapter import Adapter
from petune.model.bank import Bank
from petune.model.gate import running
from petune.model.heads import head_logits, head_of
from petune.model.prompting import lengthened
from petune.model.routing import Frame, Group, entered


@dataclass(frozen=True)
class RoutedOutput:
    """What a call with one route per row gives back.

    Args:
        logits: one tensor per row, (C,) or (T, C), each from the head of its own adapter; None for rows without one.
            For a route per token: for each row a list of its tokens' (C,), or None.
        last_hidden_state: (B, T, D) of the backbone; None when the batch's tasks need different backbones (T5).
    """

    logits: list[Any]
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
        longer = lengthened(frame, shell, inputs)
        if longer is None:
            return shell.model(**shell.inputs(inputs))
        _refuse_too_long(bank, longer.inputs)
        return longer.restored(shell.model(**shell.inputs(longer.inputs)))


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
    frame.refuse_other_batch(batch)
    everyone = frame.groups if frame.merged is None else (Group(bank.find(frame.merged), None),)
    if not everyone:
        return RoutedOutput([None] * batch, bank.backbone.model(**inputs).last_hidden_state)
    kinds = _by_backbone(everyone)
    logits: list[Any] = [None] * (frame.batch or 0)
    for groups in kinds:
        # Rows that another kind of backbone call serves see the bare backbone in this one.
        with entered(frame.only(groups) if len(kinds) > 1 else frame) as acting:
            output = backbone_output(bank, groups[0].adapter, inputs, acting)
        by_row = frame.tokens is None
        found = head_logits(groups, output, inputs, batch) if by_row else _by_token(groups, output, inputs)
        for rows, answers in found:
            for row, answer in zip(rows.tolist(), answers.unbind(), strict=True):
                logits[row] = answer
    if frame.tokens is not None:
        logits = [logits[start : start + frame.tokens[1]] for start in range(0, len(logits), frame.tokens[1])]
    return RoutedOutput(logits, output.last_hidden_state if len(kinds) == 1 else None)


def _by_token(groups: Sequence[Group], output: Any, inputs: Mapping[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each adapter's tokens, as places in B * T, and their logits, (tokens, C)."""
    for group in groups:
        logits = head_of(group.adapter, output, inputs, None, len(output[0]))
        if logits.dim() != 3:
            raise RouteError(
                f"The adapter {group.adapter.name!r} answers once a row, so it cannot be routed by token.",
                expected="Adapters that answer for each token: of tags, or of language models.",
                fix="Give such an adapter rows of its own, with one route entry for each row.",
            )
        flat = logits.flatten(0, 1)
        rows = torch.arange(len(flat), device=flat.device) if group.rows is None else group.rows
        yield rows, flat[rows]


def _by_backbone(groups: tuple[Group, ...]) -> list[list[Group]]:
    """Groups whose shells call the same kind of backbone (T5's token tasks use its encoder alone)."""
    kinds: dict[type, list[Group]] = {}
    for group in groups:
        kinds.setdefault(type(group.adapter.shell.base), []).append(group)
    return list(kinds.values())


def backbone_output(bank: Bank, adapter: Adapter, inputs: Mapping[str, Any], frame: Frame) -> Any:
    """Runs the backbone on the whole batch, called just as the adapter's shell would call it.

    Args:
        frame: the running call's, whose adapters may put prompts before their rows.
    """
    shell = adapter.shell
    longer = lengthened(frame, shell, inputs)
    if longer is not None:
        _refuse_too_long(bank, longer.inputs)
    with entered(None):
        call = shell.call(inputs if longer is None else longer.inputs)
    shared = bank.backbone.model
    base = shared if type(shared) is type(shell.base) else shell.base
    output = base(*call.args, **call.kwargs)
    return output if longer is None else longer.restored(output)
