"""A folder of class folders: `photos/cat/1.png`, `photos/dog/2.png`. The folders' names are the labels."""

from __future__ import annotations

from pathlib import Path

from petune.errors import DataError
from petune.tasks._media import COLUMNS
from petune.tasks.base import Table


def has_classes(folder: Path) -> bool:
    """Whether a folder holds folders, some of which hold pictures or sounds."""
    return any(path.suffix.lower() in COLUMNS for kind in _folders(folder) for path in _files(kind))


def read_classes(folder: Path) -> Table:
    """The paths below each class folder, in the order of their names, as `{"image" or "audio", "label"}`.

    What lies beside the class folders, and what is hidden, is passed over; inside of them every file must be data.

    Raises:
        DataError: a file that is no picture or sound, both kinds in one folder, or an empty class.
    """
    rows: list[dict[str, str]] = []
    for kind in _folders(folder):
        found = _files(kind)
        if not found:
            raise DataError(
                f"The class folder {str(kind)!r} holds no file.",
                expected="Each folder is a class.",
                fix="Remove it, or fill it.",
            )
        for path in found:
            if path.suffix.lower() not in COLUMNS:
                raise DataError(
                    f"{str(path)!r} is neither picture nor sound.",
                    expected=f"A class folder holds files that end in {', '.join(COLUMNS)}.",
                    fix="Move it out of the class folders.",
                )
            rows.append({COLUMNS[path.suffix.lower()]: str(path), "label": kind.name})
    kinds = sorted({next(iter(row)) for row in rows})
    if len(kinds) > 1:
        raise DataError(
            f"{str(folder)!r} holds pictures and sounds.",
            expected="One kind was expected.",
            fix="Make a folder of each.",
        )
    column = kinds[0]
    return Table(rows, (column, "label"), str(folder), lambda index: rows[index][column])


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    """The files below a class folder; folders inside of it belong to its class."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
