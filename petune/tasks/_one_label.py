"""What tasks with one label a row have in common, once the logits of a row are (C,)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petune.errors import ConfigError
from petune.knobs import knobs
from petune.tasks._columns import cells_of_column, named_column
from petune.tasks._padding import Side, pad_inputs
from petune.tasks._problems import SingleLabel
from petune.tasks._texts import need_pad_token
from petune.tasks.base import Batch, Example, Table, Task


@knobs
class OneLabelTask(Task):
    """Rows with one of C labels each, learnt by cross-entropy.

    Args:
        label: the column of the labels; None finds it by its name.
        labels, max_length: see `Task`.
    """

    label: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", tuple(map(str, self.labels)))
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels={self.labels!r} names a label twice.", fix="Give each label once.")

    @property
    def _problem(self) -> SingleLabel:
        return SingleLabel(self.labels)

    def _names(self, table: Table) -> list[str]:
        """The label of each row of a table whose columns are known."""
        cells = cells_of_column(table, named_column(table, self.label or "", "label"))
        return [self._problem.names(value, place)[0] for place, value in cells]

    def _targets(self, table: Table) -> list[int]:
        """The class of each row."""
        cells = cells_of_column(table, named_column(table, self.label or "", "label"))
        return [self._problem.target(value, place) for place, value in cells]

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """inputs (B, T); labels (B,) int64."""
        need_pad_token(tokenizer)
        side: Side = getattr(tokenizer, "padding_side", "right")
        inputs = pad_inputs(examples, tokenizer, side)
        if "labels" not in examples[0]:
            return Batch(inputs, None)
        return Batch(inputs, self._problem.tensor([example["labels"] for example in examples]))

    def loss(
        self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None
    ) -> Tensor:
        """The sum of cross-entropies over rows, (B, C) and (B,)."""
        weight = None if class_weight is None else class_weight.to(logits.device, dtype=torch.float32)
        return self._problem.loss(logits.float(), labels, label_smoothing, weight)

    def count(self, example: Example) -> int:
        """One supervised item per row."""
        return 1

    def class_counts(self, examples: Sequence[Example]) -> np.ndarray:
        """(C,) int64: how many rows have each label."""
        return self._problem.counts([example["labels"] for example in examples])

    def split(self, logits: Tensor, examples: Sequence[Example]) -> list[np.ndarray]:
        """(B, C) to B arrays (C,) float32."""
        return list(logits.detach().float().cpu().numpy())

    def answers(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[Any]:
        """Per row the likeliest label."""
        return [self._problem.answer(row) for row in logits]

    def probabilities(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> np.ndarray:
        """(rows, C) float32 in the order of `labels`; rows sum to 1."""
        rows = np.asarray(logits, dtype=np.float32).reshape(len(logits), len(self.labels))
        return self._problem.probabilities(rows)

    def references(self, examples: Sequence[Example]) -> list[Any]:
        """The true labels."""
        return [self.labels[example["labels"]] for example in examples]


def at_places(every: Tensor, at: Tensor, length: int) -> Tensor:
    """(B, T, N) at one place a row, (B,) -> (B, N).

    Args:
        length: T of the batch.

    Raises:
        IndexError: fewer places than that, as of a last block that computed the first one alone.
    """
    if every.shape[1] != length:
        raise IndexError(f"{length} places were expected, there are {every.shape[1]}")
    return every.gather(1, at[:, None, None].expand(-1, 1, every.shape[-1])).squeeze(1)
