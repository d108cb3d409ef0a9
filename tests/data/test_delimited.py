"""Comma and tab separated files: values, line numbers, and what broken ones get."""

from __future__ import annotations

import csv

import pytest

from petune.data.sources import read
from petune.errors import DataError


def test_csv_keeps_every_value_a_string(write):
    """Numbers and words such as NA stay exactly what the file says."""
    table = read(write("train.csv", "text,label\nNA,1\nnull,2.50\n"))
    assert table.columns == ("text", "label")
    assert list(table.rows) == [{"text": "NA", "label": "1"}, {"text": "null", "label": "2.50"}]
    assert table.source == "train.csv"


def test_line_numbers_survive_quoted_newlines_and_blank_lines(write):
    """`place` names the line on which a row starts in an editor."""
    path = write("train.csv", 'text,label\n"one\ntwo\n\nthree",a\n\nplain,b\n"x, ""y""\r\nz",c\nlast,d\n')
    table = read(str(path))
    assert [row["text"] for row in table.rows] == ["one\ntwo\n\nthree", "plain", 'x, "y"\r\nz', "last"]
    lines = path.read_text().splitlines()
    starts = [2, 7, 8, 10]
    assert [table.place(i) for i in range(4)] == [f"train.csv, line {line}" for line in starts]
    assert [lines[line - 1][:4] for line in starts] == ['"one', "plai", '"x, ', "last"]


def test_taken_rows_keep_their_lines(write):
    """A part of a table still knows the lines of the file."""
    table = read(write("train.csv", "text\na\nb\nc\n")).take([2, 0])
    assert [table.place(0), table.place(1)] == ["train.csv, line 4", "train.csv, line 2"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_is_read(write, end):
    """Unix, Windows and old Mac files give the same rows and lines."""
    table = read(write("train.csv", end.join(["text,label", "a,x", "b,y"])))
    assert [tuple(row.values()) for row in table.rows] == [("a", "x"), ("b", "y")]
    assert table.place(1) == "train.csv, line 3"


def test_separators_inside_unicode_text_are_no_line_ends(write):
    """U+2028, form feeds and NEL stay inside their value and do not shift line numbers."""
    table = read(write("train.csv", "text,label\na\u2028b\x0cc\x85d,x\nplain,y\n"))
    assert table.rows[0]["text"] == "a\u2028b\x0cc\x85d"
    assert table.place(1) == "train.csv, line 3"


def test_byte_order_mark_is_accepted(write):
    """A file saved as UTF-8 with BOM has the same first column name."""
    assert read(write("train.csv", b"\xef\xbb\xbftext,label\na,b\n")).columns == ("text", "label")


def test_tsv_is_cut_at_tabs(write):
    """Commas mean nothing in a tsv file; an upper-case suffix is the same format."""
    assert read(write("train.TSV", "text\tlabel\na, b\tx\n")).rows[0] == {"text": "a, b", "label": "x"}


def test_long_fields_are_read_and_the_limit_goes_back(write):
    """A field beyond csv's limit is data; the process-wide limit is what it was."""
    before = csv.field_size_limit()
    text = "a" * 200_000
    assert read(write("train.csv", f"text,label\n{text},x\n")).rows[0]["text"] == text
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('text,label\na,x\n"never closed,y\nb,z\n', ["lines 3 to 4", "never closed", "quoting=3"]),
        ('text,label\na,x\n"b" c,y\n', ["line 3", "broken quotes"]),
        ('text,label\n"a\nb",x\nc,y,z\n', ["line 4 has more fields (3) than the header (2)", "text, label"]),
        ("text,label\n\na,x\nb\n", ["line 4 has fewer fields (1)"]),
        ("text,label,text\na,b,c\n", ["more than one column named 'text'"]),
        ("text,label\n", ["a header (text, label) and no rows"]),
        ("text;label\na;b\n", ["semicolons", "sep=';'"]),
        ("text\tlabel\na\tb\n", ["tabs"]),
        ("", ["train.csv is empty"]),
        (" \n\n", ["train.csv is empty"]),
        (b"\xef\xbb\xbf\n", ["train.csv is empty"]),
        (b"text,label\na,x\ncaf\xe9,y\n", ["byte 18 (line 3) is 0xe9", "UTF-8"]),
        (b"\xef\xbb\xbftext\r\ncaf\xe9\r\n", ["byte 12 (line 2) is 0xe9"]),
        (b"text\ra\rcaf\xe9\r", ["byte 10 (line 3)"]),
        (b"text,label\na,x\nb\x00,y\n", ["NUL byte (byte 16, line 3)"]),
        ("text,label\na,b\n".encode("utf-16"), ["UTF-16"]),
    ],
)
def test_broken_files_are_named_with_file_and_line(write, content, words):
    """Each broken file is refused with its name, the line where there is one, and what to do."""
    with pytest.raises(DataError) as caught:
        read(write("train.csv", content))
    for word in ["train.csv", *words]:
        assert word in str(caught.value)
