"""Markers around two entities, between the pieces of a text; and the part of a long text that holds both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from petune.errors import DataError
from petune.tasks._entities import Entity, Relation
from petune.tasks._texts import CHUNK
from petune.tasks.base import Example

SPECIAL, OFFSETS = "special_tokens_mask", "offset_mapping"


class Markers(NamedTuple):
    """The four pieces that stand around head and tail, and whether the opening ones are repeated behind the text."""

    head: tuple[int, int]
    tail: tuple[int, int]
    repeated: bool

    @property
    def room(self) -> int:
        """Pieces that they take."""
        return 6 if self.repeated else 4


def read(relations: Sequence[Relation], tokenizer: Any) -> list[Example]:
    """Every text whole, with what tells which piece came from which characters."""
    rows: list[Example] = []
    for start in range(0, len(relations), CHUNK):
        texts = [relation.text for relation in relations[start : start + CHUNK]]
        made = tokenizer(
            texts, truncation=False, padding=False, verbose=False, return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )  # fmt: skip
        rows += [{key: values[index] for key, values in made.items()} for index in range(len(texts))]
    return rows


def marked(row: Example, relation: Relation, markers: Markers, limit: int, place: str) -> tuple[Example, bool]:
    """One example with its markers, and whether its text was cut to fit.

    Of a text that is too long the part around both entities stays, as much on either side where there is as much.

    Raises:
        DataError: an entity of which the tokenizer leaves nothing, or two that lie too far apart.
    """
    specials = row[SPECIAL]
    body = [at for at, special in enumerate(specials) if not special]
    spans = [
        _pieces(entity, row[OFFSETS], body, place, name)
        for entity, name in zip(relation[1:], ("head", "tail"), strict=True)
    ]
    low, high = min(first for first, _ in spans), max(last for _, last in spans) + 1
    room = limit - markers.room - (len(specials) - len(body))
    start, end = body[0], body[-1] + 1
    cut = end - start > room
    if high - low > room:
        raise DataError(
            f"{place}: the entities lie {high - low} pieces apart, and there is room for {max(room, 0)}.",
            expected="Both are needed in one example.",
            fix="Raise max_length, or drop the row.",
        )
    if cut:
        start = min(max(low - (room - (high - low)) // 2, start), end - room)
        end = start + room
    return _with_markers(row, range(start, end), (body[0], body[-1] + 1), spans, markers), cut


def _pieces(
    entity: Entity, offsets: Sequence[tuple[int, int]], body: list[int], place: str, name: str
) -> tuple[int, int]:
    """The first and the last piece of an entity; a piece that it begins or ends in belongs to it."""
    inside = [at for at in body if offsets[at][1] > entity.start and offsets[at][0] < entity.end]
    if not inside:
        raise DataError(
            f"{place}: the tokenizer leaves nothing of the {name} at characters {entity.start} to {entity.end}.",
            expected="An entity needs a piece at least.",
            fix="Correct or drop the row.",
        )
    return inside[0], inside[-1]


def _with_markers(
    row: Example, kept: range, body: tuple[int, int], spans: Sequence[tuple[int, int]], markers: Markers
) -> Example:
    """The kept pieces of the text with the markers between them, and the special pieces around it.

    A marker's other inputs (its mask, its segment) are those of a piece beside it.
    """
    gaps: dict[int, list[tuple[tuple[int, int], int]]] = {}
    for (first, last), (opens, closes) in zip(spans, markers[:2], strict=True):
        # Where marks meet, one that closes comes first; of two that open the outer one, of two that close the inner.
        gaps.setdefault(first, []).append(((1, -last), opens))
        gaps.setdefault(last + 1, []).append(((0, -first), closes))
    if markers.repeated:
        gaps.setdefault(kept.stop, []).extend([((2, 0), markers.head[0]), ((2, 1), markers.tail[0])])
    order: list[tuple[int, int | None]] = [(at, None) for at in range(body[0])]
    for at in (*kept, kept.stop):
        order += [(min(at, kept.stop - 1), marker) for _, marker in sorted(gaps.get(at, ()))]
        order += [(at, None)] if at < kept.stop else []
    order += [(at, None) for at in range(body[1], len(row[SPECIAL]))]
    return {
        key: [values[at] if marker is None or key != "input_ids" else marker for at, marker in order]
        for key, values in row.items()
        if key not in (SPECIAL, OFFSETS)
    }
