"""`petune predict`: rows flow through, keep their columns, and get answers beside them."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from petune import LoRA, TokenClassification, TrainConfig, Tuner
from petune.cli import streams
from petune.cli.answering import Answering
from petune.tasks.question_answering import Answer
from tests import tiny
from tests.cli.parts import table
from tests.cli.test_door import left


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of a csv text."""
    return list(csv.DictReader(io.StringIO(text)))


def test_every_column_is_kept_and_the_answer_is_the_tuners(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answers are those of Tuner.predict, the probability is that of the answer, chunks change nothing."""
    assert left("predict", "runs/a", "test.csv", "--probabilities", "--chunk", "3") == 0
    found = rows_of(capsys.readouterr().out)
    texts = [row["text"] for row in rows_of(Path("test.csv").read_text())]
    tuner = Tuner.load("runs/a")
    assert [row["text"] for row in found] == texts and "label" in found[0]
    assert [row["predicted"] for row in found] == tuner.predict(texts)
    for row, shares in zip(found, tuner.predict_proba(texts), strict=True):
        assert float(row["predicted_probability"]) == pytest.approx(max(shares), abs=1e-4)
        both = [float(row[f"predicted_probability_{label}"]) for label in ("bad", "good")]
        assert both == pytest.approx(shares, abs=1e-4)


def test_a_pipe_takes_jsonl(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """stdin to stdout, values of any kind kept as they are."""
    rows = [{"text": "a lovely film", "id": 7, "tags": ["x"]}, {"text": "dull and boring"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + lines)))
    assert left("predict", "runs/a", "-", "--format", "jsonl", "--column", "mood") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [{key: row[key] for key in given} for row, given in zip(told, rows, strict=True)] == rows
    assert all(row["mood"] in ("bad", "good") and 0.5 <= row["mood_probability"] <= 1 for row in told)


def test_the_rows_are_never_written_over(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file that is read cannot be the one that is written, whatever it is called."""
    before = Path("train.csv").read_bytes()
    Path("other.csv").unlink(missing_ok=True)
    Path("other.csv").symlink_to("train.csv")
    for out in ("train.csv", "./train.csv", "other.csv"):
        assert left("predict", "runs/a", "train.csv", "--out", out) == 2
        assert "is the file of the rows" in capsys.readouterr().err
    assert Path("train.csv").read_bytes() == before


def test_only_a_chunk_is_in_memory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answers are written before the rows of the second chunk are read."""
    rows = ("text\n", *(f"a lovely film {i}\n" for i in range(10)))
    events: list[str] = []

    def source() -> io.StringIO:
        return io.StringIO("".join(rows))

    class Watched(io.StringIO):
        def __next__(self) -> str:
            events.append("read")
            return super().__next__()

    class Noted(streams.Sink):
        def write(self, rows: object) -> None:
            events.append("write")
            super().write(rows)  # type: ignore[arg-type]

    opened = streams.contextlib.nullcontext(Watched(source().read()))
    monkeypatch.setattr(streams, "_opened", lambda path: opened)
    monkeypatch.setattr(streams, "Sink", Noted)
    assert left("predict", "runs/a", "many.csv", "--out", "many-out.csv", "--chunk", "4") == 0
    assert events[: events.index("write")].count("read") == 5  # the header and four rows
    assert events.count("write") == 3 and len(Path("many-out.csv").read_text().splitlines()) == 11


SPAN = Answer("oslo", start=3, end=7, score=0.5)


@pytest.mark.parametrize(
    ("answer", "own", "labels", "columns"),
    [
        ("b", [0.25, 0.75], ("a", "b"), {"x": "b", "x_probability": 0.75}),
        (["a", "b"], [0.5, 0.75], ("a", "b"), {"x": ["a", "b"], "x_probability": [0.5, 0.75]}),
        ("an option", [0.25, 0.75], (), {"x": "an option", "x_probability": 0.75}),
        ("a span", [("a span", 0.5), ("another", 0.25)], (), {"x": "a span"}),
        (SPAN, [SPAN], (), {"x": "oslo", "x_probability": 0.5, "x_start": 3, "x_end": 7}),
        ([0.1, 0.2], None, (), {"x": [0.1, 0.2]}),
    ],
)
def test_every_kind_of_answer_has_its_columns(answer: Any, own: Any, labels: Any, columns: Any) -> None:
    """Labels, sets of labels, a row's own options, spans and vectors; what is no probability is left out."""
    answering = Answering(None, "x", every=False, batch_size=1, source="a.csv")  # type: ignore[arg-type]
    assert answering._columns(answer, own, labels) == columns


def test_tags_and_numbers_have_their_columns(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of tags is JSON with a probability for each word; a number has none."""
    quick = TrainConfig(epochs=1, progress="off")
    Tuner("bert", task=TokenClassification(), method=LoRA(rank=2)).fit(tiny.tag_rows(12), config=quick).save(
        "runs/tags"
    )
    rows = [{"tokens": row["tokens"]} for row in tiny.tag_rows(2, seed=3)]
    Path("words.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert left("predict", "runs/tags", "words.jsonl", "--out", "tags.csv") == 0
    for row, given_ in zip(rows_of(Path("tags.csv").read_text()), rows, strict=True):
        tags, shares = json.loads(row["predicted"]), json.loads(row["predicted_probability"])
        assert len(tags) == len(shares) == len(given_["tokens"])
    scores = [{**row, "label": row["label"] + 0.25} for row in tiny.score_rows(16)]
    Tuner("bert").fit(scores, config=quick).save("runs/score")
    capsys.readouterr()
    assert left("predict", "runs/score", "test.csv") == 0
    found = rows_of(capsys.readouterr().out)
    assert list(found[0]) == ["text", "label", "predicted"] and float(found[0]["predicted"]) is not None


WRONG = [
    (["predict", "runs/a", "tset.csv"], 1, ["tset.csv", "'test.csv'"]),
    (["predict", "runs/a", "rows.parquet"], 2, ["csv, tsv, jsonl"]),
    (["predict", "runs/b", "test.csv"], 1, ["There is no folder runs/b"]),
    (["predict", "runs/a", "label.csv"], 1, ["label.csv has no column 'text'", "'label'"]),
    (["predict", "runs/a", "ragged.csv"], 1, ["ragged.csv, line 3", "fewer fields"]),
    (["predict", "runs/a", "empty.csv", "--chunk", "2"], 1, ["empty.csv, line 5", "is empty"]),
    (["predict", "runs/a", "answered.csv"], 2, ["'predicted'", "--column"]),
    (["predict", "runs/a", "broken.jsonl"], 1, ["broken.jsonl, line 2"]),
    (["predict", "runs/a", "test.csv", "--out", "no/such/place.csv"], 2, ["no/such/place.csv"]),
]


@pytest.mark.parametrize(("words", "code", "said"), WRONG, ids=str)
def test_wrong_input(
    place: Path, words: list[str], code: int, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The file, the line and the reason on stderr; a file of answers that broke off does not appear."""
    Path("label.csv").write_text("label\ngood\n")
    Path("ragged.csv").write_text("text,label\na film,good\nanother\n")
    Path("empty.csv").write_text('text,id\na film,1\na film,2\na film,3\n"",4\n')
    Path("answered.csv").write_text("text,predicted\na film,good\n")
    Path("broken.jsonl").write_text('{"text": "a film"}\n{"text": \n')
    out = [] if "--out" in words else ["--out", "answers.csv"]
    assert left(*words, *out) == code
    told = capsys.readouterr()
    assert not [word for word in said if word not in told.err] and "Traceback" not in told.err
    assert not Path("answers.csv").exists() and not Path("answers.csv.part").exists()


@given(
    st.lists(
        st.fixed_dictionaries(
            {name: st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6) for name in ("a", "b")}
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(streams.FORMS),
    st.integers(1, 4),
)
@example([{"a": "", "b": "\r"}], "csv", 1)
def test_rows_come_back_as_they_were_written(rows: list[dict[str, str]], form: str, size: int) -> None:
    """Every form, every text, every size of a chunk."""
    with streams.contextlib.ExitStack() as stack:
        import tempfile

        path = f"{stack.enter_context(tempfile.TemporaryDirectory())}/rows.{form}"
        with streams.written(path, form) as sink:
            sink.write(rows)
        found = [row for chunk in streams.chunks(path, form, size) for row in chunk.rows]
    assert found == rows


def test_a_table_keeps_the_columns_of_its_first_row(tmp_path: Path) -> None:
    """A later key would be lost, so it is an error that names jsonl as the way out."""
    table(tmp_path / "a.csv", 2)
    with pytest.raises(streams.DataError, match="jsonl"), streams.written(str(tmp_path / "b.csv"), "csv") as sink:
        sink.write([{"a": 1}, {"a": 1, "b": 2}])
    assert not (tmp_path / "b.csv").exists()
