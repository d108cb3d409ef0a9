"""What is legal in labelled rows and odd: each kind is said once, with how many rows it is about and the first of them.

Nothing here refuses anything: what cannot be used is an error of the task that reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from petune.tasks.base import Example, Table, Task

LONG_WORD = re.compile(r"[!-~]{1000,}")
"""ASCII without a space: some languages write no spaces, but none of them in ASCII."""
_BYTES = "[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
"""What the bytes 0x80 to 0xbf of UTF-8 become when they are read as Latin-1 or Windows-1252."""
MOJIBAKE = re.compile(
    f"\ufffd|\u00e2\u20ac{_BYTES}|(?<=[a-z])\u00c3{_BYTES}|\u00ef\u00bb\u00bf|(?:[\u00d0\u00d1]{_BYTES}){{2}}"
)
"""Traces of UTF-8 that was read in another encoding, and the sign for bytes that could not be read."""
NO_LABELS = frozenset({"nan", "none", "null", "na", "n/a", "#n/a", "<na>", "nat"})
"""What programs write where a label is missing."""


def odd_rows(task: Task, table: Table, examples: Sequence[Example], tokenizer: Any) -> list[str]:
    """Sentences on texts: empty, of unknown pieces, with long words, NUL characters or a wrong encoding."""
    if not task.texts_in:
        return []  # what it reads is none of the texts that are looked at here
    specials, unknown = set(tokenizer.all_special_ids), getattr(tokenizer, "unk_token_id", None)
    blank, strange = _without_words(examples, specials, unknown)
    texts = list(_texts(task, table))
    blank |= {row for row, text in texts if not text.strip()}
    ids = {example["row"] for example in examples if unknown is not None and unknown in example["input_ids"]}
    long = {row: words for row, text in texts if row in ids - strange and (words := LONG_WORD.findall(text))}
    longest = max((len(word) for words in long.values() for word in words), default=0)
    return [
        *_said(table, blank, "are empty, or the tokenizer leaves nothing of them"),
        *_said(table, strange - blank, "hold only what the tokenizer does not know: it reads them all alike"),
        *_said(table, long, f"hold a word of up to {longest:,} characters, which the tokenizer does not know"),
        *_said(table, {row for row, text in texts if "\0" in text}, "hold NUL characters"),
        *_said(
            table,
            {row for row, text in texts if not text.isascii() and MOJIBAKE.search(text)},
            "look as if they had been read in the wrong encoding",
        ),
    ]


def odd_labels(task: Task, given: Task, table: Table, examples: Sequence[Example]) -> list[str]:
    """Sentences on rows that occur twice or contradict each other, and on labels that look like a mistake.

    Args:
        task: learnt from the table.
        given: the same before; labels that it names are meant as they are.
    """
    if not task.answers_in:
        return []
    where, column = f"{table.source}: ", f"column {getattr(task, task.answers_in)!r}"
    said = _twice(task, table)
    if task.labels:
        unseen = [name for name, count in zip(task.labels, task.class_counts(examples), strict=True) if not count]
        said += [f"{where}no row has {' or '.join(map(repr, unseen))} in {column}."] if unseen else []
    elif len(examples) > 1 and _is_one_number([example["labels"] for example in examples]):
        said.append(f"{where}every row has the number {examples[0]['labels']} in {column}.")
    if task.labels and not given.labels:
        said += [f"{where}{words} in {column}." for words in _alike(task.labels)]
    return said


def _is_one_number(labels: list[Any]) -> bool:
    return all(isinstance(label, float) and label == labels[0] for label in labels)


def _without_words(examples: Sequence[Example], specials: set[int], unknown: int | None) -> tuple[set[int], set[int]]:
    """The rows of special pieces alone: those of which nothing is left, and those of unknown pieces."""
    told = {example["row"] for example in examples if any(piece not in specials for piece in example["input_ids"])}
    rest = [example for example in examples if example["row"] not in told]
    strange = {example["row"] for example in rest if unknown is not None and unknown in example["input_ids"]}
    return {example["row"] for example in rest} - strange, strange


def _texts(task: Task, table: Table) -> Iterator[tuple[int, str]]:
    """(row, text) of every column that is read as text; words are joined."""
    knobs = (*task.texts_in, task.answers_in) if task.generates else task.texts_in
    for column in filter(None, (getattr(task, knob, None) for knob in knobs)):
        for index, row in enumerate(table.rows):
            value = row.get(column)
            yield index, value if isinstance(value, str) else " ".join(map(str, value or ()))


def _twice(task: Task, table: Table) -> list[str]:
    """Rows that occur before, and rows whose text occurs before with another label."""
    learns = getattr(task, task.answers_in)
    seen: dict[Any, dict[Any, int]] = {}
    same: dict[int, int] = {}
    other: dict[int, int] = {}
    for index, row in enumerate(table.rows):
        text = tuple(map(_key, task.asks(row)))
        answer = _key(row.get(learns), ordered=task.answers_in != "label") if learns else None
        answers = seen.setdefault(text, {})
        if answer in answers:
            same[index] = answers[answer]
        elif answers and task.labels:
            other[index] = next(iter(answers.values()))
        answers.setdefault(answer, index)
    return [
        f"{table.source}: {len(found)} rows {words} (first: {table.place(index)}, as {table.place(found[index])})."
        for found, words in ((same, "occur twice or more"), (other, "have texts that occur with other labels as well"))
        if found and (index := min(found)) >= 0
    ]


def _key(value: Any, *, ordered: bool = True) -> Any:
    """A cell as a key; the order of several labels means nothing."""
    if not isinstance(value, list | tuple | set | frozenset):
        return value
    return tuple(map(str, value)) if ordered else frozenset(map(str, value))


def _alike(labels: Sequence[str]) -> Iterator[str]:
    """Labels that differ only in case, and those that stand for a missing one."""
    folded: dict[str, str] = {}
    for name in labels:
        first = folded.setdefault(" ".join(name.casefold().split()), name)
        if first != name:
            yield f"the labels {first!r} and {name!r} differ only in case or white space"
        if name.casefold() in NO_LABELS:
            yield f"the label {name!r} is a class like any other, though it may stand for a missing label"


def _said(table: Table, rows: Iterable[int], words: str) -> list[str]:
    found = set(rows)
    first = f"(first: {table.place(min(found))})" if found else ""
    return [f"{table.source}: {len(found)} of {len(table)} rows {words} {first}."] if found else []
