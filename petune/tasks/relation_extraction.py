"""Which relation two marked entities of a text are in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from petune.errors import ConfigError, DataError
from petune.knobs import check, knobs
from petune.lookup import find, near
from petune.tasks._columns import (
    LABEL,
    TEXT,
    TOKENS,
    Names,
    columns_found,
    find_column,
    labels_found,
    named_column,
    some_rows,
)
from petune.tasks._entities import Relation, relation_of, span_columns
from petune.tasks._labels import classes, ordered
from petune.tasks._marking import Markers, marked, read
from petune.tasks._one_label import OneLabelTask, at_places
from petune.tasks._texts import need_fast, need_pad_token, piece_limit, rows_of
from petune.tasks.base import MARKERS, Encoded, Example, Table, Task

TEXTS = Names((*TEXT.first, *TOKENS.first, "token"), TEXT.second)
RELATION = Names(("relation", *LABEL.first), ("predicate", "rel", *LABEL.second))


@knobs
class RelationExtraction(OneLabelTask):
    """Texts with two marked entities to the relation that the first is in to the second.

    Four markers are put around the two entities, and the states at the opening ones are read together:

        logits = W [h_E1 ; h_E2] + b        (Baldini Soares et al. 2019, arXiv:1906.03158, "entity start")

    The markers are pieces of the adapter's own: the backbone's vocabulary and the tokenizer stay as they are.

    Args:
        text: the column of the texts, or of lists of words; None finds it by its name.
        label: the column of the relations; None finds it by its name.
        head, tail: the columns of the two spans: (start, end), or a dict with `start`, `end` and perhaps `type`; or
            what stands before `_start`, `_end` and `_type` in the names of columns, such as TACRED's `subj` and `obj`.
            None finds them; without any, texts are marked: `[E1] Ann [/E1] lives in [E2] Oslo [/E2]`, or `<e1>` ....
            Spans count characters, and words where the text is a list of words; the end is not in the span.
        inclusive_ends: whether the end is in the span; None: as TACRED has it, for words in two columns.
        typed: markers of their own for each type of entity (Zhou and Chen 2022, arXiv:2102.01373).
        types: the types of entities; empty: learnt from the training rows.
        read_at: `"entities"`, for encoders; `"end"`: the opening markers once more behind the text, for decoders, in
            which a piece sees only what is before it.
        negative: the label of pairs in no relation, which the figures leave out; None finds it among the labels
            (`no_relation`, `NA`, `Other` ...); empty: there is none.
        labels, max_length: see `Task`.

    Examples:
        >>> row = {"text": "Ann lives in Oslo", "head": (0, 3), "tail": (13, 17), "relation": "lives_in"}
        >>> other = {**row, "text": "Ann flew to Oslo", "tail": (12, 16), "relation": "no_relation"}
        >>> learnt = RelationExtraction().learn(Table([row, other], tuple(row)))
        >>> learnt.head, learnt.tail, learnt.labels
        ('head', 'tail', ('lives_in', 'no_relation'))
    """

    # One linear map of two outputs per label at every piece: its halves, read at two places and added, are W and b.
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    texts_in: ClassVar[tuple[str, ...]] = ("text",)
    answers_in: ClassVar[str] = "label"

    text: str | None = None
    head: str | None = None
    tail: str | None = None
    inclusive_ends: bool | None = None
    typed: bool = False
    types: tuple[str, ...] = ()
    read_at: Literal["entities", "end"] = "entities"
    negative: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.read_at in ("entities", "end"), "read_at", self.read_at, "'entities' or 'end'")
        object.__setattr__(self, "types", tuple(map(str, self.types)))
        if len(set(self.types)) < len(self.types) or (self.types and not self.typed):
            raise ConfigError(
                f"types={self.types!r} cannot be meant.",
                expected="Each type once, and typed=True, which gives each markers of its own.",
            )

    # ------------------------------------------------------------------ learning from the training rows

    def learn(self, table: Table) -> Self:
        """A copy with columns, labels and types filled in; those that were given keep their order.

        Raises:
            DataError: no rows, no such column, a bad span, a single class.
        """
        found = super().learn(table)
        if self.negative and self.negative not in found.labels:
            raise ConfigError(f"negative={self.negative!r} is no label.", fix=near(self.negative, found.labels))
        if not self.typed or self.types:
            return found
        types = ordered(entity.type for relation in found._relations(table) for entity in relation[1:])
        if not any(types):
            raise DataError(
                f"{table.source} names no types of entities.",
                expected="typed=True reads them from the spans ('type') or from columns such as head_type.",
                fix="Add them, or drop typed=True.",
            )
        return dataclasses.replace(found, types=types)

    def chosen(self, given: Task) -> list[str]:
        """What `learn` filled in beyond the `given` task, as sentences."""
        said = columns_found(self, given, "text", "label", "head", "tail")
        return [*said, *labels_found(self, given, "relations")]

    def _resolved(self, table: Table) -> Self:
        """A copy that knows its columns."""
        text = find_column(table, self.text, "text", TEXTS)
        label = find_column(table, self.label, "label", RELATION)
        head, tail = span_columns(table, self.head, self.tail)
        return dataclasses.replace(self, text=text, label=label, head=head, tail=tail)

    def _relations(self, table: Table) -> list[Relation]:
        column = named_column(table, self.text or "", "text")
        return [
            relation_of(row, table.place(index), column, self.head, self.tail, self.inclusive_ends)
            for index, row in enumerate(table.rows)
        ]

    def asks(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Text and spans: one text may hold several pairs."""
        names = [f"{name}{part}" for name in (self.head, self.tail) if name for part in ("", "_start", "_end")]
        return tuple(repr(row.get(name)) for name in (self.text or "", *names))

    # ------------------------------------------------------------------ rows to batches

    def own_rows(self) -> int:
        """Opening and closing markers of head and tail, each for every type."""
        return 4 * max(1, len(self.types))

    def model_config(self) -> dict[str, Any]:
        """Two outputs per label: what the head's marker says for it, and what the tail's says."""
        self._need_learnt()
        return classes([f"{label} ({side})" for side in ("head", "tail") for label in self.labels])

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of marked texts, of (text, head, tail), or dicts with the columns of training.

        Raises:
            DataError: a single string.
        """
        text = self.text or "text"
        columns = (text, *(name for name in (self.head, self.tail) if name is not None))
        if isinstance(texts, Sequence) and not isinstance(texts, str):
            texts = [{text: item} if isinstance(item, str) else item for item in texts]
        return Table(rows_of(texts, columns), columns, "the texts")

    def specimen(self) -> Any:
        """A text with its two spans in their columns, or marked where there are none."""
        if self.head is None or self.tail is None:
            return "[E1] Ann [/E1] lives in [E2] Oslo [/E2]"
        kind = {"type": self.types[0]} if self.types else {}
        last = int(bool(self.inclusive_ends))
        spans = {self.head: (0, 3), self.tail: (13, 17)}
        made = {name: {"start": start, "end": end - last, **kind} for name, (start, end) in spans.items()}
        return {self.text or "text": "Ann lives in Oslo", **made}

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to examples with markers; of a row above the limit the part around its entities is kept, and counted.

        Raises:
            DataError: a bad text, span or label, or entities too far apart, with the row's place.
            ConfigError: `max_length` above `longest`, or the task has not learnt yet.
            BackboneError: a slow tokenizer, or one without a pad token.
        """
        self._need_learnt()
        need_fast(tokenizer, "Entities are found by the characters of their pieces, which only fast tokenizers tell.")
        need_pad_token(tokenizer)
        limit = piece_limit(self.max_length, longest)
        if labelled:
            some_rows(table)
        relations = self._relations(table)
        targets = self._targets(table) if labelled else [None] * len(table)
        examples: list[Example] = []
        cut = 0
        for index, (row, relation) in enumerate(zip(read(relations, tokenizer), relations, strict=True)):
            place = table.place(index)
            example, was_cut = marked(row, relation, self._markers(relation, place), limit, place)
            cut += was_cut
            examples.append({**example, "row": index, **({} if targets[index] is None else {"labels": targets[index]})})
        notices = [
            f"{table.source}: {cut} of {len(table)} rows were longer than {limit} pieces;"
            f" of these the part around both entities was kept."
        ]
        return Encoded(examples, notices if cut else [])

    def _markers(self, relation: Relation, place: str) -> Markers:
        """The pieces that mark a row's entities."""
        kinds, pairs = max(1, len(self.types)), []
        for side, entity in enumerate(relation[1:]):
            if self.types and entity.type not in self.types:
                raise DataError(
                    f"{place}: the type {entity.type!r} was never seen in training.", fix=near(entity.type, self.types)
                )
            kind = self.types.index(entity.type) if self.types else 0
            opens = MARKERS - 2 * side * kinds - kind
            pairs.append((opens, opens - kinds))
        return Markers(pairs[0], pairs[1], self.read_at == "end")

    # ------------------------------------------------------------------ logits and figures

    def logits(self, output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, T, 2C) at every piece -> (B, C) from the head's and the tail's markers.

        A batch without markers, such as the seeded pieces that prove a saved adapter, is read at its first piece.
        """
        every, kinds, size = output.logits, max(1, len(self.types)), len(self.labels)
        found = []
        for side in range(2):
            first = MARKERS - 2 * side * kinds
            there = (inputs["input_ids"] <= first) & (inputs["input_ids"] > first - kinds)
            order = torch.arange(there.shape[1], device=there.device)
            scores = there.long() * (order + 1 if self.read_at == "end" else there.shape[1] - order)
            there = at_places(every, scores.argmax(1), scores.shape[1])
            found.append(there[:, side * size : (side + 1) * size])
        return found[0] + found[1]

    def default_metrics(self) -> tuple[Any, ...]:
        """Precision, recall and F1 of the relations without the negative class, and the accuracy with it."""
        if self.negative is None:
            return ("relation-f1", "accuracy")
        return (find("metrics", "relation-f1")(negative=self.negative), "accuracy")

    def headline(self) -> str:
        """The micro F1 of the relations picks the best adapter."""
        return "relation_f1"

    def _need_learnt(self) -> None:
        if self.text is None or self.label is None or not self.labels or (self.typed and not self.types):
            raise ConfigError(
                "The task has not learnt its columns and labels yet.",
                fix="Call learn(table) with the training rows first.",
            )
