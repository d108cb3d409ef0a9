"""What tasks whose answers are texts have in common: the loss over pieces, and what becomes of generated ones."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from petune.errors import ConfigError
from petune.knobs import check, knobs
from petune.tasks._generation import check_options, refuse
from petune.tasks._padding import Side
from petune.tasks._texts import CHUNK
from petune.tasks.base import IGNORE, Example, Table, Task

LARGEST = 700.0
"""Losses above it have no exponential in double precision."""


@knobs
class WritingTask(Task):
    """A language model's task: it learns to foretell pieces, and its answers are texts that the model writes.

    An evaluation has two halves. The loss, and what `default_metrics` name, are of what the model would have said at
    every place, given the true pieces before it; pieces are told by their numbers. `text_metrics` are of what it writes
    freely, as in a prediction.

    A labelled example notes what its row would be asked in a prediction, where that is no more than the first pieces of
    it: `_front`, how many; else `_prompt`, which they are. `_truth` is the text that should be written.

    Args:
        max_new_tokens: pieces that `predict` and `generate` write at most.
        generation: further options of transformers' `generate`, such as `{"num_beams": 4}`.
    """

    generates: ClassVar[bool] = True
    side: ClassVar[Side]
    """On which side prompts are padded."""
    shifted: ClassVar[bool]
    """Whether the logits at a piece foretell the next one (decoders), or the label at the same place."""

    max_new_tokens: int = 64
    generation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        object.__setattr__(self, "generation", dict(self.generation))
        if self.labels:
            raise ConfigError("A language model's task has no labels.", fix="Drop labels=...")

    def need_room(self, positions: int | None) -> None:
        """Refuses more new pieces than the backbone has positions, and options that `generate` does not take.

        They are looked at here and not when the task is made, so that a saved adapter opens whatever they are.

        Raises:
            ConfigError: with the positions that there are, or the option.
        """
        check_options(self.options())
        if self.shifted:
            refuse(
                self.generation, ("max_length", "min_length"), "Of a decoder, max_new_tokens counts what is written."
            )
        check(
            positions is None or self.new_pieces <= positions,
            "max_new_tokens",
            self.new_pieces,
            f"{positions} or less, because this backbone has no more positions",
        )

    # ------------------------------------------------------------------ what is written

    @property
    def new_pieces(self) -> int:
        """The pieces that are written at most: `generation` may say another number than the knob."""
        return int(self.options().get("max_new_tokens") or self.max_new_tokens)

    def leaving_room(self, options: Mapping[str, Any]) -> Self:
        """A copy that cuts its prompts for what one call of `generate` asks for."""
        if options.get("max_new_tokens") is None:
            return self
        kept = {**self.generation, "max_new_tokens": options["max_new_tokens"]}
        return dataclasses.replace(self, generation=kept)

    def options(self) -> dict[str, Any]:
        """The options of `generate` that the knobs ask for."""
        return {"max_new_tokens": self.max_new_tokens, **self.generation}

    def decoding(self, tokenizer: Any) -> dict[str, Any]:
        """The options of `generate` that a tokenizer asks for; `eos_token_id` are further pieces at which to stop."""
        end = getattr(tokenizer, "eos_token_id", None)
        return {} if end is None else {"eos_token_id": [end]}

    def prompt_of(self, example: Example) -> Example:
        """What a labelled example's row would be asked in a prediction."""
        if "_prompt" in example:
            pieces = example["_prompt"]
            return {"input_ids": pieces, "attention_mask": [1] * len(pieces), "row": example["row"]}
        kept = {key: value for key, value in example.items() if not key.startswith("_") and key != "labels"}
        front = example.get("_front")
        return {key: value[:front] if isinstance(value, list) else value for key, value in kept.items()}

    def written(self, pieces: Sequence[int], prompt: int, tokenizer: Any) -> str:
        """The text of one generated row; a decoder's begins with its prompt, padded to `prompt` pieces."""
        new = list(pieces)[prompt:] if self.shifted else list(pieces)
        return str(tokenizer.decode(new, skip_special_tokens=True))

    # ------------------------------------------------------------------ (logits, labels) to a loss

    def model_config(self) -> dict[str, Any]:
        """Nothing: the shell is the checkpoint's own language model."""
        return {}

    def loss(
        self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None
    ) -> Tensor:
        """The sum over supervised pieces of the cross-entropy.

        Args:
            logits: (B, T, V); or (N, V), those of the supervised places alone.
            labels: (B, T) int64, -100 where nothing is learnt; or (N,), as from `supervised`.
            label_smoothing: towards 1/V.

        Raises:
            ConfigError: for class weights.
        """
        if class_weight is not None:
            raise self._no_classes()
        if labels.dim() == 2 and labels.device.type == "cpu":
            at, labels = self.supervised(labels)
            logits = logits.flatten(0, 1)[at]
        elif labels.dim() == 2:  # to look for the places would make the host wait
            logits, labels = logits.flatten(0, 1), self._foretold(labels).flatten()
        return nn.functional.cross_entropy(
            logits.float(), labels, reduction="sum", ignore_index=IGNORE, label_smoothing=label_smoothing
        )

    def supervised(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Where a loss falls: (N,) places, b * T + t for the logits at t of row b; and (N,) what they should foretell.

        Best asked of labels on the host, because the number of places is not known beforehand.

        Args:
            labels: (B, T) int64, -100 where nothing is learnt.

        Examples:
            >>> from petune.tasks.causal_lm import CausalLM
            >>> CausalLM().supervised(torch.tensor([[-100, 7, 8], [5, -100, 6]]))
            (tensor([0, 1, 4]), tensor([7, 8, 6]))
        """
        targets = self._foretold(labels).flatten()
        at = (targets != IGNORE).nonzero().flatten()
        return at, targets[at]

    def _foretold(self, labels: Tensor) -> Tensor:
        """(B, T): what the logits at each place should foretell, -100 where nothing is learnt."""
        return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE) if self.shifted else labels

    def count(self, example: Example) -> int:
        """The supervised pieces of an example."""
        return sum(label != IGNORE for label in self._targets(example))

    def class_counts(self, examples: Sequence[Example]) -> np.ndarray:
        """Nothing to count.

        Raises:
            ConfigError: always.
        """
        raise self._no_classes()

    # ------------------------------------------------------------------ logits to answers

    def split(self, logits: Tensor, examples: Sequence[Example]) -> list[np.ndarray]:
        """(B, T, V) to one array (pieces,) per row: the likeliest piece at each supervised place."""
        best = logits.detach().argmax(-1).cpu()
        found = []
        for row, example in zip(best, examples, strict=True):
            kept = torch.tensor([label != IGNORE for label in self._targets(example)], dtype=torch.bool)
            found.append(row[: len(kept)][kept].numpy().astype(np.float32))  # exact up to 2 ** 24 pieces
        return found

    def answers(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[Any]:
        """Per row the foretold pieces, each by its number."""
        return [[str(int(piece)) for piece in row] for row in logits]

    def references(self, examples: Sequence[Example]) -> list[Any]:
        """Per row the true pieces."""
        return [[str(label) for label in self._targets(example) if label != IGNORE] for example in examples]

    def probabilities(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> Any:
        """There are none.

        Raises:
            ConfigError: always.
        """
        raise self._no_classes()

    def strata(self, table: Table) -> list[set[str]] | None:
        """None: texts have no classes."""
        return None

    def default_metrics(self) -> tuple[str, ...]:
        """The share of pieces that are foretold right, beside loss and perplexity."""
        return ("token_accuracy",)

    def text_metrics(self) -> tuple[str, ...]:
        """The metrics of written texts that `Tuner.evaluate` computes; a fit those that `TrainConfig.metrics` names."""
        return ()

    def of_loss(self, loss: float) -> dict[str, float]:
        """The perplexity, the exponential of the mean loss per piece: among how many pieces the model is in doubt.

        Examples:
            >>> from petune.tasks.causal_lm import CausalLM
            >>> CausalLM().of_loss(0.0)
            {'perplexity': 1.0}
        """
        return {"perplexity": math.exp(loss) if loss < LARGEST else math.inf}

    def headline(self) -> str:
        """The mean loss per piece picks the best adapter."""
        return "loss"

    def _targets(self, example: Example) -> list[int]:
        """The labels at the places where logits foretell something; without labels that is everywhere."""
        labels: list[int] = example["labels" if "labels" in example else "input_ids"]
        return labels[1:] if self.shifted else labels

    def _no_classes(self) -> ConfigError:
        return ConfigError(
            f"{type(self).__name__} has no classes, so there are no class weights or probabilities.",
            expected="Its answers are texts.",
            fix="Use predict or generate.",
        )

    @abstractmethod
    def _need_learnt(self) -> None:
        """Raises ConfigError before `learn`."""


def pieces_of(texts: Sequence[str], tokenizer: Any, *, specials: bool = True, role: str = "text") -> list[list[int]]:
    """The pieces of each text, uncut.

    Args:
        specials: whether the tokenizer puts its own special pieces around each.
        role: `"text"`, or `"text_target"` for tokenizers that write another language than they read.
    """
    found: list[list[int]] = []
    for start in range(0, len(texts), CHUNK):
        given = {role: list(texts[start : start + CHUNK]), "add_special_tokens": specials, "verbose": False}
        found += tokenizer(**given, truncation=False, padding=False)["input_ids"]
    return found


def ended(pieces: list[int], tokenizer: Any) -> list[int]:
    """The pieces with the end-of-sequence piece at their end, once; as they are where the tokenizer has none."""
    end = tokenizer.eos_token_id
    return pieces if end is None or pieces[-1:] == [end] else [*pieces, end]


def unended(pieces: list[int], tokenizer: Any) -> list[int]:
    """The pieces without an end-of-sequence piece at their end: what follows is to be written."""
    return pieces[:-1] if len(pieces) > 1 and pieces[-1] == tokenizer.eos_token_id else pieces


def cut_notice(table: Table, cut: int, limit: int, longest: int) -> list[str]:
    """What is said when rows were cut."""
    if not cut:
        return []
    return [
        f"{table.source}: {cut} of {len(table)} rows were longer than {limit} pieces and were cut (longest {longest})."
    ]
