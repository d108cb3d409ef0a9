"""Parquet files; pyarrow is imported when one is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from petune.data.hub_dataset import named
from petune.data.records import unique
from petune.errors import DataError
from petune.tasks.base import Table


def read_parquet(path: Path) -> Table:
    """The rows of a parquet file. Class names that `datasets` stored in it take the place of the class indices.

    Raises:
        DataError: a file that is no parquet, or a column name that occurs twice.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        # ParquetFile and not read_table: that one would add columns for folder names such as `lang=en/`.
        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path.name} cannot be read as parquet: {str(error).splitlines()[0]}",
            expected="A .parquet file must be whole and in that format.",
            fix="Write it again, for example with DataFrame.to_parquet.",
        ) from error
    unique(table.column_names, path.name)
    return named(table.to_pylist(), _features(table.schema), path.name, lambda index: f"{path.name}, row {index}")


def _features(schema: Any) -> dict[str, Any]:
    """Column -> feature; a feature is None where the file carries none of `datasets`."""
    if b"huggingface" not in (schema.metadata or {}):
        return dict.fromkeys(schema.names)
    from datasets import Features

    return dict(Features.from_arrow_schema(schema))
