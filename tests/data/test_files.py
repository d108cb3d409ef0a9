"""JSON, CoNLL and parquet files, and paths that lead nowhere."""

from __future__ import annotations

import json

import pytest

from petune.data.sources import read
from petune.errors import DataError


def _message(data, **words) -> str:
    with pytest.raises(DataError) as caught:
        read(data, **words)
    return str(caught.value)


@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_json_lines_keep_their_types_and_line_numbers(write, name):
    """One object per line, blank lines skipped; U+2028 inside a string ends no line."""
    table = read(write(name, '{"text": "a\u2028b", "label": 1}\n\n{"text": "c", "label": ["x"]}\n'))
    assert list(table.rows) == [{"text": "a\u2028b", "label": 1}, {"text": "c", "label": ["x"]}]
    assert [table.place(0), table.place(1)] == [f"{name}, line 1", f"{name}, line 3"]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_knows_the_line_of_each_item(write, indent):
    """A list of objects is read, pretty-printed or not, and `place` names the line an item starts on."""
    rows = [{"text": "a [b], {c}", "label": {"x": [1, 2]}}, {"text": "d", "label": None}, {"text": "é", "label": 1.5}]
    text = "\ufeff\n" + json.dumps(rows, indent=indent)
    table = read(write("train.json", text))
    assert list(table.rows) == rows
    starts = [str(n) for n, line in enumerate(text.split("\n"), 1) if line == "  {"]
    starts = starts if indent else ["2, row 0", "2, row 1", "2, row 2"]  # the line alone would find no row
    assert [table.place(i) for i in range(3)] == [f"train.json, line {start}" for start in starts]


def test_a_key_that_some_rows_lack_is_none_there(write):
    """Rows with other keys share one set of columns."""
    table = read(write("train.jsonl", '{"text": "a"}\n{"label": "x", "text": "b"}\n'))
    assert table.columns == ("text", "label")
    assert table.rows[0] == {"text": "a", "label": None}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": "a"}\n{"text": "b"\n', ["line 2", "column"]),
        ('{"text": "a"}\n\n{"text": "b", "text": "c"}\n', ["line 3", "'text' occurs twice"]),
        ('{"text": "a"}\n"b"\n', ["line 2 is a str: 'b'"]),
        ('[\n{"text": "a"},\n{"text": "b"\n]', ["line 4"]),
        ('[\n{"text": "a"}\n{"text": "b"}\n]', ["line 3", "expecting ','"]),
        ('[\n{"text": "a"},\n]', ["line 3"]),
        ('[{"text": "a"}', ["line 1", "']' at the end"]),
        ('[{"text": "a"}]\n{"text": "b"}', ["line 1"]),
        ('[{"text": "a"},\n{"b": 1, "b": 2}]', ["line 2", "'b' occurs twice"]),
        ('[{"text": "a"},\n\n3]', ["line 3 is a int: 3"]),
        ("[]", ["no rows in train.jsonl"]),
        ("", ["is empty"]),
        ('{\n"text": "a"\n}', ["line 1", "one JSON object per line"]),
    ],
)
def test_broken_json_is_named_with_its_line(write, content, words):
    """Each broken line is named, in both forms of the file."""
    message = _message(write("train.jsonl", content))
    for word in words:
        assert word in message


def test_conll_gives_one_row_per_sentence(write):
    """First column tokens, last column tags, document lines skipped, lines of the first tokens kept."""
    sentences = "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\n# NN B-NP O\n-DOCSTART- -X- O O\nend NN B-NP O"
    text = "-DOCSTART- -X- -X- O\n\n" + sentences
    table = read(write("train.txt", text))
    assert list(table.rows) == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"tokens": ["#"], "tags": ["O"]},
        {"tokens": ["end"], "tags": ["O"]},
    ]
    assert [table.place(i) for i in range(3)] == [f"train.txt, line {n}" for n in (3, 7, 9)]


def test_conll_by_tabs_keeps_spaces_inside_tokens(write):
    """A line with tabs is cut at tabs only; a no-break space never cuts; CRLF is fine."""
    table = read(write("train.conll", "New York\tB-LOC\r\n10\u00a0000 O\r\n \r\na\tO\r\n"))
    assert table.rows[0] == {"tokens": ["New York", "10\u00a0000"], "tags": ["B-LOC", "O"]}
    assert len(table) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("EU NNP O\nrejects O\n", ["line 2 has 2 columns, line 1 has 3"]),
        ("a\tO\n\n\tO\n", ["line 3 lacks a token or a tag"]),
        ("a\tO\nb\t\n", ["line 2 lacks a token or a tag"]),
        ("just\n", ["line 1 lacks a token or a tag"]),
        ("-DOCSTART- O\n\n", ["holds no sentence"]),
        (b"a O\ncaf\xe9 O\n", ["line 2", "0xe9"]),
    ],
)
def test_broken_conll_is_named_with_its_line(write, content, words):
    """A line that is no (token, ..., tag) is named."""
    message = _message(write("train.conll", content))
    for word in words:
        assert word in message


def test_parquet_is_read_row_by_row(tmp_path):
    """Values keep their types, also below a folder whose name looks like a partition."""
    import pandas

    folder = tmp_path / "lang=en"
    folder.mkdir()
    pandas.DataFrame({"text": ["a", None], "tags": [["x"], []]}).to_parquet(folder / "train.parquet")
    table = read(folder / "train.parquet")
    assert table.columns == ("text", "tags")
    assert list(table.rows) == [{"text": "a", "tags": ["x"]}, {"text": None, "tags": []}]
    assert table.place(1) == "train.parquet, row 1"


def test_parquet_of_datasets_gives_class_names(tmp_path):
    """The names that `datasets` stores in the file take the place of the indices."""
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    made = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    made.to_parquet(tmp_path / "train.parquet")
    assert [row["label"] for row in read(tmp_path / "train.parquet").rows] == ["pos", "neg"]


def test_broken_parquet_is_refused(write, tmp_path):
    """A file that is no parquet, and one with a column name twice, are errors."""
    import pyarrow
    import pyarrow.parquet

    assert "cannot be read as parquet" in _message(write("train.parquet", "text,label\n"))
    twice = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "twice.parquet")
    assert "more than one column named 'text'" in _message(tmp_path / "twice.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], "string")}), tmp_path / "none.parquet")
    assert "no rows in none.parquet" in _message(tmp_path / "none.parquet")


def test_a_path_that_leads_nowhere_names_its_neighbours(write, tmp_path):
    """A missing file, a missing folder and a text in place of a path are told apart."""
    write("train.csv", "text\na\n")
    assert "Did you mean 'train.csv'?" in _message(str(tmp_path / "trian.csv"))
    assert "does not exist either" in _message(tmp_path / "no" / "train.csv")
    assert "tuple (texts, labels)" in _message("What a\nfilm")
    assert "tuple (texts, labels)" in _message("word " * 9_000)
    (tmp_path / "bare").mkdir()
    assert "holds no data files" in _message(tmp_path / "bare" / "train.csv")


def test_a_folder_is_refused_with_its_files(write, tmp_path):
    """A folder names the files to choose from, or the call that reads it."""
    path = write("train.csv", "text\na\n")
    assert "is a folder" in _message(tmp_path)
    assert "train.csv" in _message(tmp_path)
    path.unlink()
    assert "It holds no data files." in _message(tmp_path)
    write("dataset_dict.json", "{}")
    assert "load_from_disk" in _message(tmp_path)


def test_an_unknown_suffix_names_the_formats(write):
    """A suffix that no reader answers to is an error with the near ones."""
    message = _message(write("train.jsnl", "{}"))
    assert "'.jsnl'" in message
    assert "'.jsonl'" in message
