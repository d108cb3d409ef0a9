"""One tag per word: names, parts of speech, chunks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from petune.errors import ConfigError, DataError
from petune.knobs import knobs
from petune.tasks._columns import (
    TAGS,
    TOKENS,
    cells_of_column,
    columns_found,
    find_column,
    labels_found,
    named_column,
    place_of,
    some_rows,
)
from petune.tasks._labels import class_index, classes, ordered
from petune.tasks._padding import Side, pad, pad_inputs
from petune.tasks._schemes import Scheme, check_scheme, detect_scheme
from petune.tasks._texts import need_fast, need_pad_token, piece_limit, rows_of
from petune.tasks._words import Part, parts, said_of, spaced, tags_of, words_of
from petune.tasks.base import IGNORE, Batch, Encoded, Example, Table, Task


@knobs
class TokenClassification(Task):
    """Rows of words to one tag per word.

    The first piece of a word speaks for it; its other pieces and the specials are ignored by loss and metrics. Rows
    longer than the limit are split between words into several examples, so that no word is lost, and put together
    again in answers. A word that the tokenizer drops altogether is answered `O` (or the first label).

    Args:
        tokens: the column of the words (lists, or strings split at white space); None finds it by its name.
        tags: the column of the tags; None finds it by its name.
        scheme: `"BIO"` (also BIO's older form IOB1, as in the CoNLL-2003 files), `"BIOES"` (also BILOU), `"none"`
            (each tag for itself), or `"auto"` to detect it. Tags are kept as they are given; a scheme that is named
            makes other tags an error. Spans are counted by seqeval's default mode, as the CoNLL script does.
        labels, max_length: see `Task`.

    Raises:
        ConfigError: for a scheme that does not exist, or a label given twice.

    Examples:
        >>> rows = [{"tokens": ["Anna", "sleeps"], "ner_tags": ["B-PER", "O"]}]
        >>> learnt = TokenClassification().learn(Table(rows, ("tokens", "ner_tags")))
        >>> learnt.tags, learnt.scheme, learnt.labels
        ('ner_tags', 'BIO', ('B-PER', 'O'))
    """

    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    side: ClassVar[Side] = "right"
    texts_in: ClassVar[tuple[str, ...]] = ("tokens",)
    answers_in: ClassVar[str] = "tags"

    tokens: str | None = None
    tags: str | None = None
    scheme: Scheme = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", tuple(map(str, self.labels)))
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels={self.labels!r} names a label twice.", fix="Give each label once.")

    # ------------------------------------------------------------------ learning from the training rows

    def learn(self, table: Table) -> Self:
        """A copy with columns, scheme and labels filled in; labels that were given keep their order.

        Raises:
            DataError: no rows, no such column, counts that differ, a single tag, a tag outside of the named scheme.
        """
        some_rows(table)
        tokens, tags = self._columns(table)
        rows = _tags(table, words_of(table, tokens), tags)
        for index, row in enumerate(rows):
            check_scheme(row, self.scheme, place_of(table, index, tags))
        seen = {tag for row in rows for tag in row}
        if len(seen) < 2 and len(self.labels) < 2:
            raise DataError(
                f"{table.source} holds a single class: every word has the tag {min(seen)!r} in column {tags!r}.",
                expected="At least two tags are needed to learn anything.",
                fix="Check the tag column.",
            )
        labels = self.labels or ordered(seen)
        scheme = detect_scheme(labels) if self.scheme == "auto" else self.scheme
        return dataclasses.replace(self, tokens=tokens, tags=tags, scheme=scheme, labels=labels)

    def chosen(self, given: Task) -> list[str]:
        """What `learn` filled in beyond the `given` task, as sentences."""
        assert isinstance(given, TokenClassification)
        said = columns_found(self, given, "tokens", "tags")
        if given.scheme == "auto":
            why = " (the tags have no B- and I- in front, so each stands for itself)" if self.scheme == "none" else ""
            said.append(f"scheme: {self.scheme!r}{why}.")
        return [*said, *labels_found(self, given, "tags")]

    def strata(self, table: Table) -> list[set[str]] | None:
        """The tags of each row. Works before `learn` as well."""
        tokens, tags = self._columns(table)
        return [set(row) for row in _tags(table, words_of(table, tokens), tags)]

    def _columns(self, table: Table) -> tuple[str, str]:
        return find_column(table, self.tokens, "tokens", TOKENS), find_column(table, self.tags, "tags", TAGS)

    # ------------------------------------------------------------------ rows to batches

    def model_config(self) -> dict[str, Any]:
        """The shell's configuration: one output per tag."""
        self._need_learnt()
        return classes(self.labels)

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of word lists, of plain strings (split at white space), or dicts with the columns of training.

        Raises:
            DataError: a single string.
        """
        column = self.tokens or "tokens"
        return Table(rows_of(texts, (column,)), (column,), "the texts")

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to one example each, or several for a row above the limit; `labels` marks the first pieces.

        Without labels the marks hold class 0: they only say which pieces speak for a word.

        Raises:
            DataError: bad words or tags, counts that differ, with the row's place.
            ConfigError: `max_length` above `longest`, or the task has not learnt yet.
            BackboneError: a slow tokenizer, or one without a pad token.
        """
        self._need_learnt()
        need_fast(tokenizer, "Tags need a fast tokenizer: only those tell which piece came from which word.")
        need_pad_token(tokenizer)
        limit = piece_limit(self.max_length, longest)
        if labelled:
            some_rows(table)
        words = words_of(table, named_column(table, self.tokens or "", "tokens"))
        tags = self._tag_indices(table, words) if labelled else None
        made = parts(spaced(words, tokenizer), tokenizer, limit)
        examples = [
            _example(part, row, None if tags is None else tags[row][part.start : part.start + part.size])
            for row, its_parts in enumerate(made.rows)
            for part in its_parts
        ]
        return Encoded(examples, said_of(made, table, limit))

    def _tag_indices(self, table: Table, words: list[list[str]]) -> list[list[int]]:
        index = {name: position for position, name in enumerate(self.labels)}
        column = named_column(table, self.tags or "", "tags")
        return [
            [class_index(tag, index, place_of(table, row, column), "tag") for tag in tags]
            for row, tags in enumerate(_tags(table, words, column))
        ]

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """inputs and labels, (B, T) each, padded on the right whatever the tokenizer's side: `split` counts on it."""
        need_pad_token(tokenizer)
        labels = pad([example["labels"] for example in examples], IGNORE)
        return Batch(pad_inputs(examples, tokenizer, "right"), labels)

    # ------------------------------------------------------------------ (logits, labels) to a loss

    def loss(
        self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None
    ) -> Tensor:
        """The sum of the cross-entropies of all labelled pieces.

        Args:
            logits: (B, T, C).
            labels: (B, T), `IGNORE` where no word is spoken for.
            label_smoothing: towards 1/C.
            class_weight: (C,); words are weighted, and the sum is still divided by the number of words.
        """
        weight = None if class_weight is None else class_weight.to(logits.device, dtype=torch.float32)
        return functional.cross_entropy(
            logits.float().flatten(0, 1),
            labels.flatten(),
            weight=weight,
            ignore_index=IGNORE,
            label_smoothing=label_smoothing,
            reduction="sum",
        )

    def count(self, example: Example) -> int:
        """How many words of the example have a piece that speaks for them."""
        return len(example["words"])

    def class_counts(self, examples: Sequence[Example]) -> np.ndarray:
        """(C,) int64: how many supervised words bear each tag."""
        flat = [label for example in examples for label in example["labels"] if label != IGNORE]
        return np.bincount(np.asarray(flat, dtype=np.int64), minlength=len(self.labels))

    # ------------------------------------------------------------------ logits to answers

    def split(self, logits: Tensor, examples: Sequence[Example]) -> list[np.ndarray]:
        """(B, T, C) to B arrays (words, C) float32, of the words that have a piece."""
        rows = logits.detach().float().cpu().numpy()
        return [
            row[[position for position, label in enumerate(example["labels"]) if label != IGNORE]]
            for row, example in zip(rows, examples, strict=True)
        ]

    def answers(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[list[str]]:
        """Per row one tag per word."""
        best = []
        for scores, example in zip(logits, examples, strict=True):
            tags = [self.labels[self._silent]] * example["size"]
            for word, index in zip(example["words"], scores.argmax(-1), strict=True):
                tags[word] = self.labels[int(index)]
            best.append(tags)
        return [[tag for part in row for tag in part] for row in _by_row(best, examples)]

    def probabilities(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[np.ndarray]:
        """Per row (words, C) float32 in the order of `labels`; a word without a piece is certain of its answer."""
        made = []
        for scores, example in zip(logits, examples, strict=True):
            rows = np.zeros((example["size"], len(self.labels)), dtype=np.float32)
            rows[:, self._silent] = 1.0
            rows[example["words"]] = torch.from_numpy(np.asarray(scores, dtype=np.float32)).softmax(-1).numpy()
            made.append(rows)
        return [np.concatenate(row) for row in _by_row(made, examples)]

    def references(self, examples: Sequence[Example]) -> list[list[str]]:
        """Per row the true tag of each word, words without a piece included."""
        true = [[self.labels[index] for index in example["tags"]] for example in examples]
        return [[tag for part in row for tag in part] for row in _by_row(true, examples)]

    # ------------------------------------------------------------------ evaluation

    def default_metrics(self) -> tuple[str, ...]:
        """Spans and single tags; only the latter where tags mark no spans."""
        return ("token-accuracy",) if self.scheme == "none" else ("span-f1", "token-accuracy")

    def headline(self) -> str:
        """The figure that picks the best adapter: the F1 of the spans."""
        return "token_accuracy" if self.scheme == "none" else "f1"

    @property
    def _silent(self) -> int:
        """The class that is answered for a word without a piece."""
        return self.labels.index("O") if "O" in self.labels else 0

    def _need_learnt(self) -> None:
        if self.tokens is None or not self.labels:
            raise ConfigError(
                "The task has not learnt its columns and tags yet.",
                fix="Call learn(table) with the training rows first.",
            )


def _tags(table: Table, words: list[list[str]], column: str) -> list[list[str]]:
    """The tags of each row, as many as its words."""
    pairs = zip(words, cells_of_column(table, column), strict=True)
    return [tags_of(place, value, len(row)) for row, (place, value) in pairs]


def _example(part: Part, row: int, tags: list[int] | None) -> Example:
    """One part of a row with its labels: the word's class at its first piece, `IGNORE` elsewhere."""
    firsts = part.first_pieces()
    labels = [IGNORE] * len(part.owners)
    for position, word in firsts.items():
        labels[position] = 0 if tags is None else tags[word]
    about = {"row": row, "start": part.start, "size": part.size, "words": list(firsts.values())}
    return {**part.pieces, "labels": labels, **about, **({} if tags is None else {"tags": tags})}


def _by_row(items: Sequence[Any], examples: Sequence[Example]) -> list[list[Any]]:
    """The items of the parts of each row, in the order of its words; rows in the order in which they first come."""
    rows: dict[int, list[tuple[int, Any]]] = {}
    for item, example in zip(items, examples, strict=True):
        rows.setdefault(example["row"], []).append((example["start"], item))
    return [[item for _, item in sorted(row, key=lambda pair: pair[0])] for row in rows.values()]
