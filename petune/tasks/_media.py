"""Files that are pictures or sounds, by how their names end."""

from __future__ import annotations

from pathlib import PurePath

from petune.errors import DataError
from petune.tasks.base import Table

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au")
COLUMNS = {**dict.fromkeys(IMAGES, "image"), **dict.fromkeys(SOUNDS, "audio")}
"""How a file's name ends -> the column that its path goes to."""
_LOOKED_AT = 100


def refuse_paths(table: Table, column: str) -> None:
    """Refuses a column whose first cells are paths of pictures or sounds: as texts they would teach their folders.

    Raises:
        DataError: with the task that opens such files.

    Examples:
        >>> refuse_paths(Table([{"text": "see a.png and b.png"}], ("text",)), "text")
        >>> refuse_paths(Table([{"image": "cats/1.png"}], ("image",)), "image")
        Traceback (most recent call last):
        petune.errors.DataError: The column 'image' holds paths of files, such as 'cats/1.png', and no texts...
    """
    found = [row.get(column) for row in table.rows[:_LOOKED_AT]]
    kinds = {COLUMNS.get(PurePath(cell).suffix.lower()) if isinstance(cell, str) else None for cell in found}
    if len(kinds) == 1 and (kind := kinds.pop()) is not None and not any(" " in str(cell) for cell in found):
        raise DataError(
            f"The column {column!r} holds paths of files, such as {found[0]!r}, and no texts.",
            expected="A text classifier would learn what stands in the paths, which may well be the label.",
            fix=f"Take the task {f'{kind}-classification'!r}; text={column!r} takes the paths as texts all the same.",
        )
