"""Labels told by words: a language model fills the gap of a template, or says its next word."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from petune.errors import BackboneError, ConfigError, DataError
from petune.knobs import check, knobs
from petune.tasks._cloze import MASK, around, first_pieces, in_place, joined, parsed, words_of
from petune.tasks._columns import columns_found, find_text_and_label, named_column, some_rows
from petune.tasks._labels import classes, ordered
from petune.tasks._one_label import OneLabelTask, at_places
from petune.tasks._shots import k_shot
from petune.tasks._texts import need_pad_token, piece_limit, rows_of, texts_of
from petune.tasks.base import Encoded, Example, Table, Task

CLASSES = {"masked": "AutoModelForMaskedLM", "causal": "AutoModelForCausalLM"}
PLACE, WORDS = "answer_place", "answer_pieces"
"""What the batch says for the task alone: 1 where the answer is foretold, (B, T); and the pieces of the words, from 1,
(B, C * W), 0 where a label has fewer words than another."""


@knobs
class PromptClassification(OneLabelTask):
    """Texts to labels, in the words of a language model: there is no new head, so it answers before it has learnt.

    A row becomes a template with a gap. Of what the model foretells there, the words of each label are looked at, and
    nothing else; a label of several words has their mean probability. A word of several pieces is told by its first,
    which no other word may begin with.

    Schick and Schuetze 2021, "Exploiting Cloze Questions for Few Shot Text Classification", arXiv:2001.07676; Gao et
    al. 2021, "Making Pre-trained Language Models Better Few-shot Learners", arXiv:2012.15723.

    Args:
        text, label: the columns; None finds them by their names.
        text_pair: the column of a second text, for templates with `{text_pair}`.
        template: with `{text}` and one `{mask}`, where the answer stands; for a causal model it is the end.
        verbalizer: label -> its word, or several; a label that is not in it is its own word.
        model: `"masked"` (BERT's kind) or `"causal"` (GPT's kind).
        shots: rows of each class to learn from, drawn by the seed of the fit; None: all rows.
        labels: the labels; empty: those of the verbalizer, or learnt.
        max_length: see `Task`; texts that are too long lose their ends, never the template.

    Examples:
        >>> task = PromptClassification(verbalizer={"positive": "great", "negative": ["terrible", "bad"]})
        >>> task.template, task.ready().labels
        ('{text} It was {mask}.', ('negative', 'positive'))
    """

    texts_in: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    answers_in: ClassVar[str] = "label"

    text: str | None = None
    text_pair: str | None = None
    template: str = "{text} It was {mask}."
    verbalizer: Mapping[str, Any] = field(default_factory=dict)
    model: Literal["masked", "causal"] = "masked"
    shots: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.model in CLASSES, "model", self.model, "'masked' or 'causal'")
        check(self.shots is None or self.shots >= 1, "shots", self.shots, "None or at least 1")
        object.__setattr__(self, "verbalizer", dict(self.verbalizer))
        given = self.template.strip()
        if self.model == "causal" and given == PromptClassification.template:
            object.__setattr__(self, "template", given.removesuffix("."))
        fields = [part.field for part in self._parts()]
        if self.text_pair is not None and "text_pair" not in fields:
            raise ConfigError(f"The template {self.template!r} has no '{{text_pair}}'.", fix="Put it in.")
        if self.labels:
            words_of(self.verbalizer, self.labels)

    @property
    def auto_class(self) -> str:  # type: ignore[override]
        """The language model's class."""
        return CLASSES[self.model]

    def _parts(self) -> Any:
        return parsed(self.template, ends=self.model == "causal")

    # ------------------------------------------------------------------ learning from the training rows

    def _resolved(self, table: Table) -> Self:
        """A copy that knows its columns."""
        text, label = find_text_and_label(table, self.text, self.label, self.text_pair)
        return dataclasses.replace(self, text=text, label=label)

    def _told(self) -> Iterable[str]:
        """The labels of the verbalizer."""
        return self.verbalizer

    def sample(self, table: Table, seed: int) -> Table:
        """The rows to learn from: `shots` of each class, in the order of the table.

        Raises:
            DataError: a class of fewer rows.
        """
        if self.shots is None:
            return table
        return table.take(k_shot(self._resolved(table)._names(table), self.shots, seed))

    def ready(self) -> Self:
        """A copy that answers without having seen a row: its labels are those of the verbalizer.

        Raises:
            ConfigError: neither labels nor a verbalizer were given.
        """
        labels = self.labels or ordered(self.verbalizer)
        if len(labels) < 2:
            raise ConfigError(
                "Without rows, the labels must be told.",
                fix="Pass verbalizer={'positive': 'great', 'negative': 'terrible'}, or labels=(...).",
            )
        pair = self.text_pair or ("text_pair" if "{text_pair}" in self.template else None)
        return dataclasses.replace(
            self, labels=labels, text=self.text or "text", label=self.label or "label", text_pair=pair
        )

    def chosen(self, given: Task) -> list[str]:
        """What `learn` filled in, and the words of each label."""
        said = columns_found(self, given, "text", "label")
        words = zip(self.labels, words_of(self.verbalizer, self.labels), strict=True)
        return [*said, f"words: {'; '.join(label + ': ' + ', '.join(some) for label, some in words)}."]

    # ------------------------------------------------------------------ rows to batches

    def model_config(self) -> dict[str, Any]:
        """The names of the labels; the shell is the checkpoint's own language model."""
        self._need_learnt()
        return classes(self.labels)

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of plain texts, pairs for a template with two, or dicts with the columns of training.

        Raises:
            DataError: a single string, or a row that is no pair where pairs are needed.
        """
        columns = tuple(name for name in (self.text or "text", self.text_pair) if name is not None)
        return Table(rows_of(texts, columns), columns, "the texts")

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to filled templates.

        Raises:
            DataError: a bad text or label, with the row's place.
            ConfigError: words that begin alike, a template longer than the limit, or the task has not learnt yet.
            BackboneError: a tokenizer without the mask (or the pad) piece.
        """
        self._need_learnt()
        need_pad_token(tokenizer)
        if labelled:
            some_rows(table)
        limit, parts = piece_limit(self.max_length, longest), self._parts()
        words = words_of(self.verbalizer, self.labels)
        pieces, long = first_pieces(words, tokenizer, spaced=next(p.spaced for p in parts if p.field == MASK))
        before, behind = around(tokenizer, ended=self.model == "masked")
        columns = {"text": self.text, "text_pair": self.text_pair}
        filled: list[list[list[int]]] = [
            [self._gap(tokenizer)] * len(table)
            if part.field == MASK
            else in_place(
                texts_of(table, named_column(table, columns[part.field] or "", part.field), some_empty=labelled)
                if part.field
                else [part.text] * len(table),
                tokenizer,
                [part.spaced] * len(table),
            )
            for part in parts
        ]
        cells = [index for index, part in enumerate(parts) if part.field in columns]
        gap = next(index for index, part in enumerate(parts) if part.field == MASK)
        targets = self._targets(table) if labelled else None
        flat, cut, rows = self._flat(pieces), 0, []
        for index, row in enumerate(zip(*filled, strict=True)):
            kept, was_cut = joined(row, cells, limit - len(before) - len(behind))
            cut += was_cut
            ids = [*before, *(piece for part in kept for piece in part), *behind]
            # A causal model foretells the answer at the piece before it.
            place = len(before) + sum(map(len, kept[:gap])) - (self.model == "causal")
            if place < 0:
                raise DataError(f"{table.place(index)}: nothing stands before the answer.", fix="Drop the row.")
            made: Example = {"input_ids": ids, "attention_mask": [1] * len(ids), "row": index, WORDS: flat}
            made[PLACE] = [int(at == place) for at in range(len(ids))]
            rows.append(made if targets is None else {**made, "labels": targets[index]})
        return Encoded(rows, self._said(table, cut, limit, long))

    def _gap(self, tokenizer: Any) -> list[int]:
        """What stands where the answer is to be."""
        if self.model == "causal":
            return []
        if getattr(tokenizer, "mask_token_id", None) is None:
            raise BackboneError(
                f"The tokenizer {type(tokenizer).__name__} has no mask piece.",
                expected="A masked language model fills the place of its mask.",
                fix="Use model='causal' for a model that writes, or another backbone.",
            )
        return [tokenizer.mask_token_id]

    def _flat(self, pieces: Sequence[Sequence[int]]) -> list[int]:
        """(C * W,) the words' pieces, counted from 1."""
        width = max(map(len, pieces))
        return [piece + 1 for some in pieces for piece in (*some, *[-1] * (width - len(some)))]

    def _said(self, table: Table, cut: int, limit: int, long: Mapping[str, str]) -> list[str]:
        told = [f"The word {word!r} is told by its first piece, {piece!r}." for word, piece in long.items()]
        if cut:
            told.append(f"{table.source}: {cut} of {len(table)} rows were longer than {limit} pieces and were cut.")
        return told

    # ------------------------------------------------------------------ logits to figures

    def logits(self, output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, T, V) -> (B, C): the log of the mean probability of each label's words, up to a constant.

        A batch without a place, such as the seeded pieces that prove a saved adapter, is read at its last piece, and
        the first pieces of the vocabulary stand for the words.
        """
        every, size = output.logits, len(self.labels)
        if PLACE not in inputs:
            found: Tensor = every[:, -1, :size]
            return found
        there = at_places(every, inputs[PLACE].argmax(1), inputs[PLACE].shape[1]).float()  # (B, V)
        width = max(map(len, words_of(self.verbalizer, self.labels)))
        # Beside rows of other tasks the words of this one may be padded, on either side; the first is never 0.
        start = (inputs[WORDS] != 0).long().argmax(1, keepdim=True)
        columns = start + torch.arange(size * width, device=start.device)
        pieces = inputs[WORDS].gather(1, columns)  # (B, C * W)
        scores = there.gather(1, (pieces - 1).clamp(min=0)).masked_fill(pieces == 0, -torch.inf)
        each = scores.view(-1, size, width)
        return each.logsumexp(-1) - (pieces.view(-1, size, width) != 0).sum(-1).float().log()

    def _need_learnt(self) -> None:
        if self.text is None or self.label is None or not self.labels:
            raise ConfigError(
                "The task has not learnt its columns and labels yet.",
                fix="Call learn(table) with the training rows first, or ready().",
            )
