"""The smallest learner, task and tokenizer that keep their contracts: a bag of embeddings, dropout, a linear layer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from petune.config import TrainConfig
from petune.errors import DataError
from petune.knobs import knobs
from petune.methods.base import AdapterLayer, Layers, Method, Progress, Site
from petune.tasks.base import Batch, Encoded, Example, Table, Task

VOCABULARY = 20
LABELS = ("no", "yes", "maybe")


@knobs
class FakeMethod(Method):
    """Does nothing of its own."""

    def roles(self) -> tuple[str, ...]:
        return ()

    def layer(self, site: Site) -> AdapterLayer:
        raise NotImplementedError


@knobs
class Shaping(FakeMethod):
    """Writes down its calls; with the last step only the first column of the layer is left, as AdaLoRA prunes."""

    weight: float = 0.1

    def penalty(self, layers: Layers) -> Tensor | None:
        return self.weight * sum((layer.weight**2).sum() for layer in layers.values())

    @torch.no_grad()
    def after_step(self, layers: Layers, progress: Progress) -> None:
        for layer in layers.values():
            layer.seen.append((progress.step, progress.total, layer.weight.grad is not None))
            layer.steps += layer.weight.grad is not None
            if progress.step >= progress.total:
                layer.weight[:, 1:] = 0.0


class FakeLayer(AdapterLayer):
    """A square weight, and a buffer that training changes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.seen: list[tuple[int, int, bool]] = []

    def forward(self, x: Any, y: Any) -> Any:
        return x @ self.weight.T


class FakeLearner(nn.Module):
    """Mean of embeddings -> layer -> dropout -> linear; logits (B, C)."""

    trunk, trims, focuses, can_focus = None, False, False, False

    def __init__(self, *, dropout: float = 0.0, method: Method | None = None, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.method = method or FakeMethod()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.adapter = FakeLayer(8)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(8)
        self.classifier = nn.Linear(8, classes)
        self.modes: list[bool] = []
        self.forwards = 0

    @property
    def layers(self) -> dict[str, AdapterLayer]:
        return {"adapter": self.adapter}

    def live_blocks(self) -> list[nn.Module]:
        return []

    def weights(self) -> Iterator[Tensor]:
        yield from self.parameters()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.forwards += 1
        mask = attention_mask.unsqueeze(-1)
        mean = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
        return self.classifier(self.norm(self.dropout(self.adapter(mean, None))))

    def place(self, device: torch.device) -> None:
        self.to(device)

    @contextmanager
    def fitting(self, **knobs: Any) -> Iterator[None]:
        was = self.training
        self.mode(True)
        yield
        self.train(was)

    def mode(self, training: bool) -> None:
        self.modes.append(training)
        self.train(training)

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.load_state_dict(state, strict=True)


@knobs
class FakeTask(Task):
    """Rows are encoded already; the class of a row is told by its pieces."""

    auto_class = "None"
    labels: tuple[str, ...] = LABELS

    def learn(self, table: Table) -> FakeTask:
        return self

    def model_config(self) -> dict[str, Any]:
        return {"num_labels": len(self.labels)}

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        return Encoded([dict(row) for row in table.rows], [])

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        longest = max(len(example["input_ids"]) for example in examples)
        ids = torch.zeros(len(examples), longest, dtype=torch.int64)
        mask = torch.zeros(len(examples), longest)
        for row, example in enumerate(examples):
            ids[row, : len(example["input_ids"])] = torch.tensor(example["input_ids"])
            mask[row, : len(example["input_ids"])] = 1
        labelled = "labels" in examples[0]
        labels = torch.tensor([example["labels"] for example in examples]) if labelled else None
        return Batch({"input_ids": ids, "attention_mask": mask}, labels)

    def loss(
        self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None
    ) -> Tensor:
        weights = 1.0 if class_weight is None else class_weight[labels]
        each = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
        return (each * weights).sum()

    def count(self, example: Example) -> int:
        return 1

    def class_counts(self, examples: Sequence[Example]) -> np.ndarray:
        if not self.labels:
            raise DataError("Numbers have no classes.")
        return np.bincount([example["labels"] for example in examples], minlength=len(self.labels))

    def split(self, logits: Tensor, examples: Sequence[Example]) -> list[np.ndarray]:
        return list(logits.float().cpu().numpy())

    def answers(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[Any]:
        return [self.labels[int(row.argmax())] for row in logits]

    def probabilities(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> Any:
        return torch.softmax(torch.tensor(np.stack(logits)), -1).numpy()

    def references(self, examples: Sequence[Example]) -> list[Any]:
        return [self.labels[example["labels"]] for example in examples]

    def strata(self, table: Table) -> list[str] | None:
        return None

    def table(self, texts: Sequence[Any]) -> Table:
        return Table(list(texts), ("input_ids",))

    def default_metrics(self) -> tuple[str, ...]:
        return ("accuracy",)

    def headline(self) -> str:
        return "accuracy"


def examples(rows: int, seed: int = 0) -> list[Example]:
    """Encoded rows of 2 to 9 pieces; the label is the class whose pieces are the most frequent ones."""
    rng = random.Random(seed)
    made = []
    for row in range(rows):
        label = rng.randrange(3)
        pieces = [rng.choice((1 + label, 4 + label, rng.randrange(1, VOCABULARY))) for _ in range(rng.randrange(2, 10))]
        made.append({"input_ids": pieces, "labels": label, "row": row})
    return made


def settings(**knobs: Any) -> TrainConfig:
    """A short, quiet configuration."""
    plain = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "progress": "off"}
    return TrainConfig(**{**plain, **knobs})
