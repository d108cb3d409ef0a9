"""What is learnt of vectors, and what lies nearest to one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from petune.errors import ConfigError

MOST = 10
"""Of a ranking this many texts are kept, as many as `recall_at_k` asks for."""


def score_loss(texts: Tensor, scores: Tensor, low: float, high: float) -> Tensor:
    """The sum over rows of the squared error of the cosine; the scores low..high are mapped to 0..1.

    Args:
        texts: (B, 2, D) of length 1.
        scores: (B,).

    Examples:
        >>> score_loss(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([3.0]), 1.0, 5.0)
        tensor(0.2500)
    """
    cosines = (texts[:, 0] * texts[:, 1]).sum(-1)
    return (cosines - (scores - low) / (high - low)).square().sum()


def partner_loss(texts: Tensor, names: Tensor, temperature: float) -> Tensor:
    """The sum over rows of the cross-entropy of a text's partner among the partners and negatives of all rows.

        -log( exp(cos(a_i, p_i) / t) / sum_j exp(cos(a_i, x_j) / t) )

    van den Oord et al. 2018, arXiv:1807.03748, equation 4. Candidates that are the row's own text or partner once more
    are left out.

    Args:
        texts: (B, K, D) of length 1: a text, its partner, and negatives.
        names: (B, K) int64, equal for equal texts.

    Examples:
        >>> apart = torch.eye(4).view(2, 2, 4)
        >>> partner_loss(apart, torch.tensor([[0, 1], [2, 3]]), 1.0) / 2  # all cosines are 0: a guess among two
        tensor(0.6931)
    """
    others = texts[:, 1:].transpose(0, 1).flatten(0, 1)  # all partners, then all negatives
    known = names[:, 1:].T.flatten()
    scores = texts[:, 0] @ others.T / temperature
    right = torch.arange(len(texts), device=texts.device)
    same = (known == names[:, 1:2]) | (known == names[:, :1])
    same[right, right] = False
    return functional.cross_entropy(scores.masked_fill(same, -torch.inf), right, reduction="sum")


def need_others(rows: int) -> None:
    """Refuses micro-batches in which a text has its partner alone to choose from: their loss is 0, whatever it says.

    Raises:
        ConfigError: for less than two rows.
    """
    if rows < 2:
        raise ConfigError(
            "Pairs without scores or negatives are learnt one row at a time, where the loss is always 0.",
            expected="A text is to find its partner among those of its micro-batch.",
            fix="Give two rows or more, and TrainConfig(batch_size=...) of at least 2, or a column of negatives.",
        )


def rankings(vectors: Sequence[np.ndarray], texts: Sequence[Sequence[str]]) -> list[list[str]]:
    """For each row the texts that lie nearest to its first one, among the partners and negatives of all rows.

    Args:
        vectors: (K, D) of each row.
        texts: the K texts of each row.
    """
    found: dict[str, np.ndarray] = {}
    for row, its in zip(vectors, texts, strict=True):
        for vector, text in zip(row[1:], its[1:], strict=True):
            found.setdefault(text, vector)
    names, known = list(found), np.stack(list(found.values()))
    nearest = (np.argsort(-(known @ row[0]), kind="stable")[:MOST] for row in vectors)
    return [[names[place] for place in places] for places in nearest]
