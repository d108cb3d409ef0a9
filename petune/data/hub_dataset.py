"""`datasets.Dataset` and `DatasetDict`, and the class names that their features carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from petune.data.records import table_of
from petune.errors import DataError
from petune.lookup import near
from petune.tasks.base import Table

Naming = Callable[[Any], Any]


def is_dataset(data: Any) -> bool:
    """Whether `data` looks like a `datasets.Dataset` (told by its attributes, so `datasets` is not imported)."""
    return hasattr(data, "features") and hasattr(data, "column_names") and not isinstance(data, Mapping)


def is_parts(data: Any) -> bool:
    """Whether `data` looks like a `DatasetDict`: a mapping from part names to datasets."""
    return isinstance(data, Mapping) and bool(data) and all(is_dataset(value) for value in data.values())


def part_of(data: Mapping[str, Any], part: str) -> Any:
    """One part of a `DatasetDict`.

    Raises:
        DataError: when there is no such part, with the names of those that exist.
    """
    if part not in data:
        raise DataError(
            f"The DatasetDict has no part {part!r}.",
            expected=f"Its parts are {', '.join(map(repr, data))}.",
            fix=f"Pass one of them, such as data[{next(iter(data))!r}]. {near(part, data)}",
        )
    return data[part]


def read_dataset(data: Any, name: str = "the Dataset") -> Table:
    """The rows of a `Dataset`, class indices as class names, also inside lists; -1, "no label" there, is None.

    Raises:
        DataError: a streamed dataset, or a class index without a name (with its row).
    """
    if not hasattr(data, "__len__"):
        raise DataError(
            f"{name} is a streamed {type(data).__name__}, whose rows cannot be counted or shuffled.",
            expected="Training needs a whole Dataset.",
            fix="Load it without streaming=True, or pass Dataset.from_list(list(stream.take(10_000))).",
        )
    return named(data.to_list(), data.features, name, lambda index: f"row {index} of {name}")


def named(
    rows: Sequence[dict[str, Any]], features: Mapping[str, Any], source: str, place: Callable[[int], str]
) -> Table:
    """The rows as a table, with the names of `ClassLabel` features in place of their indices.

    Raises:
        DataError: a class index without a name, with its place.
    """
    namings = {column: naming for column, feature in features.items() if (naming := _naming(feature))}
    for index, row in enumerate(rows):
        for column, naming in namings.items():
            try:
                row[column] = naming(row[column])
            except IndexError as error:
                raise DataError(
                    f"{place(index)} has the class index {row[column]!r} in column {column!r}.",
                    expected=f"The column's feature names {error}.",
                    fix="Correct the feature's names, or the index.",
                ) from None
    return table_of(rows, source, place)


def _naming(feature: Any) -> Naming | None:
    """Index -> name for a `ClassLabel`, element-wise for a list of such, None for every other feature."""
    if hasattr(feature, "int2str") and hasattr(feature, "names"):
        return _class_naming(list(feature.names))
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    element = _naming(inner) if inner is not None else None
    if element is None:
        return None
    return lambda values: None if values is None else [element(value) for value in values]


def _class_naming(names: list[str]) -> Naming:
    def naming(index: int | None) -> str | None:
        if index is None or index == -1:
            return None
        if not 0 <= index < len(names):
            raise IndexError(f"{len(names)} classes, 0 to {len(names) - 1}")
        return names[index]

    return naming
