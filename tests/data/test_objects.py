"""Python objects as data: frames, datasets, rows, columns."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from petune.data.sources import read
from petune.errors import DataError
from petune.tasks.base import Table


def _message(data, **words) -> str:
    with pytest.raises(DataError) as caught:
        read(data, **words)
    return str(caught.value)


def test_importing_sources_imports_no_heavy_reader():
    """pandas, datasets and pyarrow wait until data of theirs is read, and csv needs none of them."""
    code = (
        "import sys, pathlib, tempfile, petune.data.sources as s\n"
        "path = pathlib.Path(tempfile.mkdtemp()) / 'a.csv'; path.write_text('text\\na\\n'); s.read(path)\n"
        "s.read([{'text': 'a'}]); s.read((['a'], ['b']))\n"
        "assert not {'pandas', 'datasets', 'pyarrow'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_table_passes_through():
    """A Table is given back as the same object."""
    table = Table([{"text": "a"}], ("text",))
    assert read(table) is table


def test_rows_are_copied_and_made_plain():
    """NumPy values become Python values, and the user's rows are not touched."""
    rows = [{"text": np.str_("a"), "label": np.int64(3)}, {"text": "b", "label": np.array([1, 0])}]
    table = read(rows)
    assert [type(row["label"]) for row in table.rows] == [int, list]
    assert type(table.rows[0]["text"]) is str
    assert isinstance(rows[0]["label"], np.int64)
    assert table.place(1) == "row 1"


def test_pair_becomes_text_and_label():
    """(texts, labels) may be lists, tuples, arrays or Series."""
    import pandas

    texts, labels = ["a", "b"], [1, 0]
    for pair in (
        (texts, labels),
        (tuple(texts), tuple(labels)),
        (np.array(texts), np.array(labels)),
        (pandas.Series(texts), pandas.Series(labels)),
    ):
        table = read(pair)
        assert list(table.rows) == [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
        assert table.columns == ("text", "label")
        assert table.place(1) == "row 1 of (texts, labels)"


def test_columns_of_a_dataset_are_a_pair():
    """What `dataset["text"]` gives, and any other sequence that is no string."""
    import datasets

    dataset = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]})
    assert list(read((dataset["text"], dataset["label"])).rows) == [
        {"text": "a", "label": 1},
        {"text": "b", "label": 0},
    ]
    assert [row["label"] for row in read((["a", "b"], range(2))).rows] == [0, 1]


def test_frame_rows_name_their_index():
    """A row is named by position, and by index where the index says more."""
    import pandas

    frame = pandas.DataFrame({"text": ["a", "b", "c"], "label": [1, 2, 3]})
    assert read(frame).place(2) == "row 2 of the DataFrame"
    assert read(frame[frame.label > 1]).place(1) == "row 1 of the DataFrame (index 2)"
    assert read(frame.set_index("text", drop=False)).place(0) == "row 0 of the DataFrame (index 'a')"


def test_frame_cells_are_plain_and_missing_ones_none():
    """NaN, NA and NaT are None; integers, booleans, categories and lists keep their kind."""
    import pandas

    frame = pandas.DataFrame(
        {
            "text": ["a", None],
            "number": [1.5, float("nan")],
            "count": pandas.array([1, pandas.NA], dtype="Int64"),
            "when": [pandas.NaT, pandas.NaT],
            "kind": pandas.Categorical(["x", None]),
            "tags": [["p", "q"], np.array(["r"])],
            7: [True, False],
        }
    )
    table = read(frame)
    assert table.columns == ("text", "number", "count", "when", "kind", "tags", "7")
    first, second = table.rows
    assert first == {"text": "a", "number": 1.5, "count": 1, "when": None, "kind": "x", "tags": ["p", "q"], "7": True}
    assert [second[c] for c in ("text", "number", "count", "when", "kind")] == [None] * 5
    assert second["tags"] == ["r"]
    assert [type(first[c]) for c in ("count", "7")] == [int, bool]


def test_frame_with_a_column_twice_is_refused():
    """The second of two columns of one name would be lost."""
    import pandas

    assert "named 'text'" in _message(pandas.DataFrame([["a", "b"]], columns=["text", "text"]))
    assert "named '0'" in _message(pandas.DataFrame([["a", "b"]], columns=["0", 0]))


@pytest.fixture(scope="module")
def tagged():
    """A Dataset with a class column and a column of class lists."""
    import datasets

    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-LOC"])),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
        }
    )
    rows = {"tokens": [["in", "Rome"], ["no"], ["x"]], "tags": [[0, 1], [0], None], "label": [1, -1, 0]}
    return datasets.Dataset.from_dict(rows, features=features)


def test_class_indices_become_names(tagged):
    """ClassLabel features give names, also inside lists; -1 stands for no label and is None."""
    table = read(tagged)
    assert [row["label"] for row in table.rows] == ["pos", None, "neg"]
    assert [row["tags"] for row in table.rows] == [["O", "B-LOC"], ["O"], None]
    assert table.columns == ("tokens", "tags", "label")
    assert table.place(1) == "row 1 of the Dataset"


def test_views_of_a_dataset_are_followed(tagged):
    """Selected rows come in their own order, and a tensor format changes nothing."""
    assert [row["label"] for row in read(tagged.select([2, 0])).rows] == ["neg", "pos"]
    assert read(tagged.with_format("numpy")).rows[0] == read(tagged).rows[0]


def test_a_class_index_without_a_name_is_refused(tagged):
    """An index beyond the feature's names is named with its row."""
    from petune.data.hub_dataset import named

    with pytest.raises(DataError, match=r"row 1 has the class index 2 in column 'label'. .* 2 classes, 0 to 1"):
        named([{"label": 0}, {"label": 2}], {"label": tagged.features["label"]}, "the data", lambda i: f"row {i}")


def test_dataset_dict_takes_a_part(tagged):
    """The part is chosen by name; a part that is absent is an error with the existing ones."""
    import datasets

    parts = datasets.DatasetDict({"train": tagged, "validation": tagged.select([0])})
    assert len(read(parts)) == 3
    table = read(parts, part="validation")
    assert (len(table), table.place(0)) == (1, "row 0 of the part 'validation'")
    message = _message(parts, part="valid")
    for word in ("no part 'valid'", "'train', 'validation'", "Did you mean 'validation'?"):
        assert word in message


def test_streams_are_refused(tagged):
    """A streamed dataset cannot be shuffled or counted, alone or as a part."""
    import datasets

    assert "streaming=True" in _message(tagged.to_iterable_dataset())
    assert "streaming=True" in _message(datasets.IterableDatasetDict({"train": tagged.to_iterable_dataset()}))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], ["There are no rows in the data."]),
        (([], []), ["There are no rows"]),
        ((["a", "b"], ["x"]), ["2 texts and 1 labels"]),
        (["a", "b"], ["row 0 is a str: 'a'", "(texts, labels)"]),
        ([["a"], ["b"]], ["row 0 is a list"]),
        (("a", "b"), ["row 0 is a str"]),
        ([{"text": "a"}, None], ["row 1 is a NoneType"]),
        ([{"text": "a"}, {1: "b"}], ["row 1 has the key 1"]),
        ({"text": ["a"], "label": ["b"]}, ["A dict cannot be read", "list of dicts"]),
        (0.1, ["A float cannot be read", "DataFrame"]),
        (None, ["A NoneType cannot be read"]),
        (b"text", ["A bytes cannot be read"]),
        (({"text": i} for i in "ab"), ["A generator cannot be read", "list of dicts"]),
    ],
)
def test_data_of_no_known_form_is_refused(data, words):
    """Whatever cannot be rows says what it is and what was expected."""
    message = _message(data)
    for word in words:
        assert word in message


def test_empty_frames_and_datasets_are_refused(tagged):
    """No rows is an error for every form."""
    import pandas

    assert "There are no rows" in _message(pandas.DataFrame({"text": []}))
    assert "There are no rows" in _message(tagged.select([]))
