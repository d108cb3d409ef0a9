"""Plain texts as data: lines of a file and lists of strings, for tasks whose rows are texts alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from petune import CausalLM, SequenceClassification, TrainConfig, Tuner
from petune.data.sources import read
from petune.errors import DataError
from tests.language import language_model
from tests.tiny import tokenizer

LINES = ["the film was great", "", "  a man in his house  ", "we saw it"]
QUICK = TrainConfig(epochs=1, batch_size=2, progress="off")


def test_a_line_is_a_text(tmp_path: Path) -> None:
    """Blank lines are passed over, the others are stripped and keep their numbers."""
    path = tmp_path / "book.txt"
    path.write_bytes("\r\n".join(LINES).encode())
    table = read(path, plain=True)
    assert [row["text"] for row in table.rows] == ["the film was great", "a man in his house", "we saw it"]
    assert table.place(1) == "book.txt, line 3" and table.columns == ("text",)


def test_a_text_file_is_conll_for_other_tasks(tmp_path: Path) -> None:
    """What a .txt file holds is settled by the task, never guessed from what stands in it."""
    path = tmp_path / "tags.txt"
    path.write_text("Anna B-PER\nsleeps O\n")
    assert read(path).columns == ("tokens", "tags")
    assert read(path, plain=True).rows == [{"text": "Anna B-PER"}, {"text": "sleeps O"}]


def test_files_and_lists_of_texts_teach_the_same(tmp_path: Path) -> None:
    """Training and evaluation rows as a file, as strings and as dicts give the same adapter, bit for bit."""
    texts = [line.strip() for line in LINES if line.strip()] * 4
    path = tmp_path / "book.txt"
    path.write_text("\n".join(texts))
    figures = []
    for rows in (path, texts, [{"text": text} for text in texts]):
        task = CausalLM(packing=True, max_length=16)
        tuner = Tuner(language_model("gpt2"), tokenizer=tokenizer("gpt2"), task=task, method="lora")
        figures.append(tuner.fit(rows, rows, config=QUICK).evaluate(rows)["loss"])
    assert figures[0] == figures[1] == figures[2]


@pytest.mark.parametrize("rows", [["a film", "a house"], ["a film", 3]])
def test_texts_alone_teach_no_classes(rows: list[object]) -> None:
    """A task that needs labels refuses a list of strings; so does one of texts where an item is none."""
    from tests import tiny

    tuner = Tuner(tiny.backbone("bert"), tokenizer=tokenizer("bert"), task=SequenceClassification())
    with pytest.raises(DataError, match="row 0 is a str: 'a film'"):
        tuner.fit(rows, config=QUICK)
    with pytest.raises(DataError, match="row 0 is a str"):
        Tuner(language_model("gpt2"), tokenizer=tokenizer("gpt2"), task=CausalLM()).fit([*rows, 3], config=QUICK)
