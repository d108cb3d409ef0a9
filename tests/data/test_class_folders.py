"""A folder of class folders is data; what does not belong there is told."""

from __future__ import annotations

import pytest

from petune.data.sources import read
from petune.errors import DataError


def fill(folder, *names):
    """Empty files, with their folders."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_the_folders_are_the_labels(tmp_path):
    """Rows come in the order of names; deeper folders belong to their class; what is hidden or beside is no data."""
    fill(tmp_path, "dog/2.JPG", "dog/more/1.png", "cat/a.webp", "cat/.DS_Store", "README.txt")
    table = read(tmp_path)
    assert table.columns == ("image", "label")
    assert [row["label"] for row in table.rows] == ["cat", "dog", "dog"]
    assert table.rows[0]["image"] == str(tmp_path / "cat" / "a.webp") == table.place(0)


def test_sounds_have_a_column_of_their_own(tmp_path):
    """Folders of wav and flac files give the column `audio`."""
    assert read(fill(tmp_path, "yes/1.wav", "no/2.flac")).columns == ("audio", "label")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("cat/a.png", "dog/b.wav"), "pictures and sounds"),
        (("cat/a.png", "dog/notes.txt"), "notes.txt.*neither"),
        (("cat/a.png", "dog/.keep"), "dog.*holds no file"),
        (("a.png", "b.csv"), "is a folder"),
    ],
)
def test_what_does_not_belong_there_is_refused(names, said, tmp_path):
    """Both kinds, other files, an empty class, and a folder without classes."""
    with pytest.raises(DataError, match=said):
        read(fill(tmp_path, *names))
