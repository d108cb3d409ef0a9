"""`read`: whatever a user holds, as one `Table`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from petune.data.class_folders import has_classes, read_classes
from petune.data.conll import read_conll
from petune.data.delimited import read_csv, read_tsv
from petune.data.frame import is_frame, is_pair, read_frame, read_pair
from petune.data.hub_dataset import is_dataset, is_parts, part_of, read_dataset
from petune.data.json_file import read_json
from petune.data.parquet import read_parquet
from petune.data.plain_text import is_plain, read_lines, table_of_texts
from petune.data.records import table_of
from petune.errors import DataError
from petune.lookup import near
from petune.tasks.base import Table

FORMATS: dict[str, Callable[[Path], Table]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_json,
    ".json": read_json,
    ".parquet": read_parquet,
    ".conll": read_conll,
    ".txt": read_conll,
}
"""How a file is read, by how its name ends (upper or lower case)."""

_ACCEPTED = (
    f"Data may be a path ({', '.join(FORMATS)}), a list of dicts, a tuple (texts, labels), a pandas DataFrame, "
    "or a datasets.Dataset or DatasetDict."
)


def read(data: Any, *, part: str = "train", plain: bool = False) -> Table:
    """Reads data of any accepted form; what it holds is checked by the task, row by row.

    Values of csv and tsv files stay strings, numbers too. Rows of Python objects are counted from 0, as their own
    indexing does; lines of files from 1.

    Args:
        data: a path to a .csv, .tsv, .jsonl, .json, .parquet or CoNLL (.conll, .txt) file, or to a folder with a
            folder of pictures or sounds for each class; a list of dicts; a tuple (texts, labels), whose columns are
            named `text` and `label`; a pandas DataFrame; a `datasets.Dataset` or `DatasetDict`; or a Table, which is
            given back as it is.
        part: which part of a `DatasetDict`; nothing else has parts.
        plain: a .txt file holds a text a line, and a list of strings is data too, in the column `text`.

    Raises:
        DataError: data of no accepted form, no such file or part, no rows, or a broken file (with the line).

    Examples:
        >>> table = read((["good", "bad"], ["pos", "neg"]))
        >>> table.columns, len(table), table.place(1)
        (('text', 'label'), 2, 'row 1 of (texts, labels)')
    """
    if isinstance(data, Table):
        return data
    table = table_of_texts(data) if plain and is_plain(data) else _read(data, part, plain)
    if not len(table):
        raise DataError(f"There are no rows in {table.source}.", expected="At least one is needed.")
    return table


def _read(data: Any, part: str, plain: bool) -> Table:
    if isinstance(data, str | os.PathLike):
        return _read_file(data, FORMATS | {".txt": read_lines} if plain else FORMATS)
    if is_frame(data):
        return read_frame(data)
    if is_parts(data):
        return read_dataset(part_of(data, part), f"the part {part!r}")
    if is_dataset(data):
        return read_dataset(data)
    if is_pair(data):
        return read_pair(data)
    if isinstance(data, Sequence) and not isinstance(data, bytes):
        return table_of(data, "the data", lambda index: f"row {index}")
    raise DataError(
        f"A {type(data).__module__}.{type(data).__name__} cannot be read as data.".replace(" builtins.", " "),
        expected=_ACCEPTED,
        fix="Turn it into a list of dicts, one per row.",
    )


def _read_file(given: str | os.PathLike[str], formats: Mapping[str, Callable[[Path], Table]]) -> Table:
    path = Path(os.path.expanduser(given))
    if not os.path.exists(path):
        raise _absent(given, path)
    if path.is_dir():
        if has_classes(path):
            return read_classes(path)
        raise _folder(path)
    suffix = path.suffix.lower()
    if suffix not in formats:
        raise DataError(
            f"{path.name} ends in {suffix!r}, which names no format that is read here.",
            expected=f"A data file ends in {', '.join(FORMATS)}.",
            fix=f"{near(suffix, FORMATS)} Save or rename the file accordingly.",
        )
    return formats[suffix](path)


def _absent(given: str | os.PathLike[str], path: Path) -> DataError:
    """No such file: its neighbours, or a hint that a text was passed in place of a path."""
    name, folder = os.fspath(given), path.parent
    if len(name) > 255 or any(end in name for end in "\n\r\0"):
        name, fix = name[:60] + "...", "Pass texts in a list of dicts, or in a tuple (texts, labels)."
    elif not folder.is_dir():
        fix = f"The folder {str(folder)!r} does not exist either."
    else:
        fix = near(path.name, files) if (files := _data_files(folder)) else f"{str(folder)!r} holds no data files."
    return DataError(f"There is no file {name!r}.", expected="A str is taken as the path of a data file.", fix=fix)


def _folder(path: Path) -> DataError:
    files = _data_files(path)
    fix = f"Pass one of its files: {', '.join(files[:10])}." if files else "It holds no data files."
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        fix = "It was written by datasets: pass datasets.load_from_disk(path)."
    expected = "The path of one data file was expected, or of a folder with a folder of files for each class."
    return DataError(f"{path} is a folder.", expected=expected, fix=fix)


def _data_files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in FORMATS and entry.is_file())
