"""How large a run is, and on which rows. The defaults are what is reported; tests make everything small."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedModel

from benchmarks import real_data
from petune import SequenceClassification
from petune.data.preparing import Prepared, prepare

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
"""No dropout anywhere, so that training mode and evaluation mode compute the same."""


@dataclass(frozen=True)
class Settings:
    """Sizes of every figure.

    Args:
        encoder: folder of the encoder.
        rows: training rows; the first of the split.
        tested: test rows that give each arm's score; None: all.
        repeats: rounds that count; each figure is a median over them.
        batch: rows of an optimizer step, in every arm.
        epochs: of the arms whose trunk is kept, and of those beside them.
        top: adapted blocks of the arms that adapt the top third.
        rank, alpha, rate: of LoRA, in every arm.
        traced: steps over which losses are laid side by side.
        parts: rows as `{"train", "test"}`.
    """

    encoder: str
    rows: int = 384
    tested: int | None = None
    repeats: int = 5
    batch: int = 16
    epochs: int = 5
    top: int = 2
    rank: int = 8
    alpha: int = 16
    rate: float = 5e-4
    traced: int = 50
    max_length: int = 64
    seed: int = 0
    parts: dict[str, list[dict[str, Any]]] = field(default_factory=real_data.sentiment, repr=False)

    @property
    def train(self) -> list[dict[str, Any]]:
        """The training rows."""
        return self.parts["train"][: self.rows]

    @property
    def test(self) -> list[dict[str, Any]]:
        """The rows of the scores."""
        return self.parts["test"][: self.tested]

    @property
    def task(self) -> SequenceClassification:
        """The task of every arm of petune."""
        return SequenceClassification(max_length=self.max_length)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of every arm."""
        return AutoTokenizer.from_pretrained(self.encoder)

    @cached_property
    def prepared(self) -> Prepared:
        """The training rows as petune encodes them; every arm has the same pieces."""
        return prepare(self.task, self.train, None, self.tokenizer, None, self.seed)

    @property
    def lengths(self) -> list[int]:
        """Real pieces of each training row."""
        return [len(example["input_ids"]) for example in self.prepared.train]

    def backbone(self, *, dropout: bool) -> PreTrainedModel:
        """A fresh encoder, with its own dropout or with none."""
        return AutoModel.from_pretrained(self.encoder, **({} if dropout else STILL)).eval()


def rehearsal(settings: Settings, place: Path) -> Settings:
    """The same on an encoder of almost no size, so that an arm loads every library before its memory is measured."""
    blocks = {"num_hidden_layers": settings.top + 1, "hidden_size": 16, "num_attention_heads": 2}
    model = BertModel(BertConfig(vocab_size=len(settings.tokenizer), intermediate_size=32, **blocks))
    model.save_pretrained(place)
    settings.tokenizer.save_pretrained(place)
    return replace(settings, encoder=str(place), rows=2 * settings.batch, tested=settings.batch)
