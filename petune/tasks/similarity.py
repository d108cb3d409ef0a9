"""Texts to vectors that lie close to each other where the texts mean the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from petune.errors import ConfigError, DataError
from petune.knobs import check, knobs
from petune.tasks._columns import Names, cells, columns_found, find_column, named_column, some_rows, usual
from petune.tasks._labels import number
from petune.tasks._nearness import need_others, partner_loss, rankings, score_loss
from petune.tasks._pooling import Pooling, pooled
from petune.tasks._several import one_or_two, pad_parts, parts_of, several, split_parts
from petune.tasks._texts import need_pad_token, piece_limit, texts_of, tokenize
from petune.tasks.base import Batch, Encoded, Example, Table, Task

TEXT = Names(
    ("text", "anchor"),
    ("query", "question", "sentence1", "sentence_1", "sentence_a", "text1", "text_1", "text_a", "question1", "headline",
     "sentence"),
)  # fmt: skip
PAIR = Names(
    ("text_pair", "positive"),
    ("answer", "passage", "document", "body", "reply", "sentence2", "sentence_2", "sentence_b", "text2", "text_2",
     "text_b", "question2"),
)  # fmt: skip
NEGATIVE = Names(("negative",), ("hard_negative",))
SCORE = Names(("score", "similarity"), ("similarity_score", "label", "labels", "stars", "rating"))


@knobs
class Similarity(Task):
    """Embeds texts, so that pairs that belong together have a large cosine.

    What it learns from is told by the columns. Pairs alone: each text should find its partner among those of the
    micro-batch (in-batch negatives; Henderson et al. 2017, arXiv:1705.00652; van den Oord et al. 2018,
    arXiv:1807.03748). With a third text, a negative, that competes as well. With a score: the cosine should be the
    score, mapped to 0..1 (Reimers & Gurevych 2019, arXiv:1908.10084).

    `predict` gives a text's vector, (D,) float32 of length 1, and for a pair of texts its cosine.

    Args:
        text, text_pair: the columns of the two texts; None finds each by its name.
        negative: the column of texts that should lie far off; None finds one by its name.
        score: the column of scores; None finds one by its name.
        score_range: the scores of no and of full likeness; None: the least and the largest of the training rows.
        pooling: `"mean"` of the real pieces, `"cls"` (the first), or `"last"` (for decoders).
        temperature: what cosines are divided by before the softmax over the micro-batch.
        max_length: see `Task`.

    Raises:
        ConfigError: a knob out of range, or knobs that contradict each other.

    Examples:
        >>> table = Table([{"query": "a way home", "answer": "take the bus"}], ("query", "answer"))
        >>> learnt = Similarity().learn(table)
        >>> learnt.text, learnt.text_pair, learnt.score
        ('query', 'answer', None)
    """

    auto_class: ClassVar[str] = "AutoModel"

    text: str | None = None
    text_pair: str | None = None
    negative: str | None = None
    score: str | None = None
    score_range: tuple[float, float] | None = None
    pooling: Pooling = "mean"
    temperature: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.temperature > 0, "temperature", self.temperature, "above 0")
        if self.score_range is not None:
            two = len(self.score_range) == 2 and self.score_range[0] < self.score_range[1]
            check(two, "score_range", self.score_range, "two rising numbers")
        if self.labels:
            raise ConfigError("Similarity has no labels.", fix="Drop labels=...")
        if self.negative is not None and self.score is not None:
            raise ConfigError("negative=... does not go with score=...", fix="Drop one of the two.")

    # ------------------------------------------------------------------ learning from the training rows

    def learn(self, table: Table) -> Self:
        """A copy whose columns are filled in, and the range of the scores where there are scores.

        Raises:
            DataError: no rows, no such column, a score that is no number, scores that are all the same.
        """
        some_rows(table)
        found = dataclasses.replace(
            self,
            text=find_column(table, self.text, "text", TEXT),
            text_pair=find_column(table, self.text_pair, "text_pair", PAIR),
        )
        if self.score is None and (self.negative is not None or usual(table, NEGATIVE)):
            return dataclasses.replace(found, negative=find_column(table, self.negative, "negative", NEGATIVE))
        if self.score is None and not usual(table, SCORE):
            return found
        found = dataclasses.replace(found, score=find_column(table, self.score, "score", SCORE))
        if found.score_range is None:
            scores = found._scores(table)
            if min(scores) == max(scores):
                raise DataError(
                    f"{table.source}: every score in column {found.score!r} is {scores[0]}.",
                    expected="Scores of one value alone cannot say what is more alike.",
                    fix="Drop the column where all pairs belong together, or pass score_range=(no, full likeness).",
                )
            found = dataclasses.replace(found, score_range=(min(scores), max(scores)))
        return found

    def chosen(self, given: Task) -> list[str]:
        """The columns that `learn` found, and from what it learns."""
        assert isinstance(given, Similarity)
        said = columns_found(self, given, "text", "text_pair", "negative", "score")
        if self.score is None:
            return [*said, "No scores: each text is to find its partner among those of its micro-batch."]
        if given.score_range is None:
            said.append(f"score_range: {self.score_range} (score_range=... gives another).")
        return said

    def strata(self, table: Table) -> list[set[str]] | None:
        """None: there are no classes."""
        return None

    # ------------------------------------------------------------------ rows to batches

    def model_config(self) -> dict[str, Any]:
        """Nothing: the shell is the backbone itself."""
        return {}

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of texts, or of pairs of texts: strings, 2-tuples, or dicts with one or both columns.

        Raises:
            DataError: a single string, or a row that is neither.
        """
        if isinstance(texts, (str, bytes, Mapping)):
            raise DataError("A single text was given.", expected="A list of rows was expected.", fix="Pass [text].")
        columns = (self.text or "text", self.text_pair or "text_pair")
        return Table([one_or_two(item, index, columns) for index, item in enumerate(texts)], columns, "the texts")

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to examples with a part for each text; texts above the limit are cut, and counted.

        Without labels a row may lack its second text: then it is one text.

        Raises:
            DataError: a bad text or score, with the row's place.
            ConfigError: `max_length` above `longest`, or the task has not learnt yet.
            BackboneError: the tokenizer has no pad token.
        """
        self._need_learnt()
        need_pad_token(tokenizer)
        limit = piece_limit(self.max_length, longest)
        if labelled:
            some_rows(table)
        texts = self._texts(table, labelled)
        pieces = tokenize([text for row in texts for text in row], None, tokenizer, limit)
        parts = iter(pieces.rows)
        scores = self._scores(table) if labelled and self.score else None
        examples = []
        for row, some in enumerate(texts):
            example = several([next(parts) for _ in some], row, _texts=list(some))
            if labelled:
                example["labels"] = 0.0 if scores is None else scores[row]
            examples.append(example)
        told = f"{pieces.cut} texts were longer than {limit} pieces and were cut (longest {pieces.longest})."
        return Encoded(examples, [f"{table.source}: {told}"] if pieces.cut else [])

    def _texts(self, table: Table, labelled: bool) -> list[tuple[str, ...]]:
        """The texts of each row."""
        firsts = texts_of(table, named_column(table, self.text or "", "text"))
        others = [("text_pair", self.text_pair), *([("negative", self.negative)] if self.negative else [])]
        if labelled:
            columns = [texts_of(table, named_column(table, name or "", knob)) for knob, name in others]
            return list(zip(firsts, *columns, strict=True))
        pair = self.text_pair or ""
        seconds = [
            texts_of(table.take([row]), pair) if table.rows[row].get(pair) is not None else []
            for row in range(len(table))
        ]
        return [(first, *second) for first, second in zip(firsts, seconds, strict=True)]

    def _scores(self, table: Table) -> list[float]:
        return [number(value, place) for place, value in cells(table, named_column(table, self.score or "", "score"))]

    def parts(self, example: Example) -> list[Example]:
        """One for each text."""
        return parts_of(example)

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """inputs (P, T) of all texts of all rows; labels (B,) float32 scores, or (B, K) int64: which text each one is.

        Equal numbers are equal texts, so that a text is no negative of itself.
        """
        need_pad_token(tokenizer)
        inputs = pad_parts(examples, tokenizer)
        if "labels" not in examples[0]:
            return Batch(inputs, None)
        if self.score:
            return Batch(inputs, torch.tensor([example["labels"] for example in examples], dtype=torch.float32))
        known: dict[str, int] = {}
        which = [[known.setdefault(text, len(known)) for text in example["_texts"]] for example in examples]
        return Batch(inputs, torch.tensor(which, dtype=torch.int64))

    # ------------------------------------------------------------------ (logits, labels) to a loss

    def logits(self, output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """(P, D) float32 of length 1: the vector of each text."""
        return pooled(output.last_hidden_state, inputs["attention_mask"], self.pooling)

    def loss(
        self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None
    ) -> Tensor:
        """The sum over rows: of the cross-entropy of a text's partner among all, or of the squared error of its cosine.

        Args:
            logits: (P, D), the texts of a row beside each other.
            labels: as `collate` makes them.

        Raises:
            ConfigError: smoothing or weights.
        """
        if label_smoothing or class_weight is not None:
            raise _no_classes("label_smoothing" if label_smoothing else "class_weight")
        texts = logits.unflatten(0, (len(labels), -1))
        if labels.is_floating_point():
            return score_loss(texts, labels, *(self.score_range or (0.0, 1.0)))
        return partner_loss(texts, labels, self.temperature)

    def count(self, example: Example) -> int:
        """One supervised item per row."""
        return 1

    def need_rows(self, rows: int) -> None:
        """Refuses rows that are alone, unless scores or negatives say what is to be learnt.

        Raises:
            ConfigError: with the knob.
        """
        if self.score is None and self.negative is None:
            need_others(rows)

    def class_counts(self, examples: Sequence[Example]) -> np.ndarray:
        """There are none: always a ConfigError."""
        raise _no_classes("class_weight")

    # ------------------------------------------------------------------ logits to answers

    def split(self, logits: Tensor, examples: Sequence[Example]) -> list[np.ndarray]:
        """(P, D) to one array (texts, D) float32 per row."""
        return split_parts(logits, examples)

    def answers(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[Any]:
        """Per row its vector (D,), or of a pair its cosine; where partners are to be found, the texts nearest to it."""
        if examples and "labels" in examples[0] and not self.score:
            return rankings(logits, [example["_texts"] for example in examples])
        return [row[0] if len(row) == 1 else float(row[0] @ row[1]) for row in logits]

    def probabilities(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> Any:
        """There are none: always a ConfigError."""
        raise ConfigError("Similarity has no probabilities.", expected="It answers vectors.", fix="Use predict.")

    def references(self, examples: Sequence[Example]) -> list[Any]:
        """Per row its score, or its partner's text."""
        return [example["labels"] if self.score else example["_texts"][1] for example in examples]

    def ideal(self, examples: Sequence[Example]) -> list[Any]:
        """The scores, or rankings of the right text alone."""
        right = self.references(examples)
        return right if self.score else [[text] for text in right]

    def default_metrics(self) -> tuple[str, ...]:
        """The rank correlation with the scores, or how often partners are found."""
        return ("spearman", "pearson") if self.score else ("recall-at-k",)

    def headline(self) -> str:
        """The figure that picks the best adapter."""
        return "spearman" if self.score else "recall_at_1"

    def _need_learnt(self) -> None:
        if self.text is None or self.text_pair is None:
            raise ConfigError(
                "The task has not learnt its columns yet.", fix="Call learn(table) with the training rows first."
            )


def _no_classes(knob: str) -> ConfigError:
    return ConfigError(f"{knob} has no meaning for similarity.", expected="It needs classes.", fix=f"Drop {knob}.")
