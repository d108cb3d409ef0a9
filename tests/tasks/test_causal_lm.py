"""CausalLM: columns, pieces, what the loss falls on, what is kept of logits, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from petune.errors import BackboneError, ConfigError, DataError
from petune.tasks.base import IGNORE, Encoded
from petune.tasks.causal_lm import CausalLM
from tests import tiny
from tests.language import language_model
from tests.tasks.tables import reread, table

TOKENIZER = tiny.tokenizer("gpt2")
BEGIN, END = 2, 3
"""[CLS] and [SEP], which stand before and after every text of this tokenizer."""


def encoded(task: CausalLM, *rows: dict[str, Any], longest: int = 64, labelled: bool = True) -> Encoded:
    """Rows that the task has learnt its columns from."""
    return task.learn(table(rows)).encode(table(rows), TOKENIZER, longest=longest, labelled=labelled)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("text",), ("text", None, None)),
        (("id", "Content"), ("Content", None, None)),
        (("prompt", "completion"), (None, "prompt", "completion")),
        (("instruction", "response", "id"), (None, "instruction", "response")),
        (("question", "answer", "text"), ("text", None, None)),
    ],
)
def test_columns_are_found_by_their_usual_names(columns, found):
    """A pair of a prompt and a completion is taken, unless there is a column of texts."""
    learnt = CausalLM().learn(table([dict.fromkeys(columns, "a film")]))
    assert (learnt.text, learnt.prompt, learnt.completion) == found
    assert len(learnt.chosen(CausalLM())) == sum(name is not None for name in found)
    assert reread(learnt) == learnt


def test_named_columns_count():
    """One named knob of a pair asks for the other; a text besides them contradicts."""
    rows = table([{"text": "a", "ask": "b", "output": "c"}])
    learnt = CausalLM(prompt="ask").learn(rows)
    assert (learnt.text, learnt.prompt, learnt.completion) == (None, "ask", "output")
    assert CausalLM(text="ask").learn(rows).text == "ask"
    with pytest.raises(ConfigError, match="does not go with a prompt"):
        CausalLM(text="text", prompt="ask")
    with pytest.raises(DataError, match=r"no column 'asks'.*Did you mean 'ask'"):
        CausalLM(prompt="asks", completion="output").learn(rows)


def test_a_text_ends_once():
    """A text has the tokenizer's pieces, its beginning included, and one end; all of it is learnt."""
    example = encoded(CausalLM(), {"text": "a great film"}).examples[0]
    assert example["input_ids"][0] == BEGIN
    assert example["input_ids"].count(END) == 1
    assert example["input_ids"][-1] == END
    assert example["labels"] == example["input_ids"]
    assert CausalLM().count(example) == len(example["labels"]) - 1  # nothing foretells the first piece


def test_no_loss_falls_on_the_prompt():
    """The pieces of the prompt are read, those of the completion and its end are learnt."""
    task = CausalLM()
    example = encoded(task, {"prompt": "a great film", "completion": "we saw"}).examples[0]
    prompt, completion = (TOKENIZER(text)["input_ids"] for text in ("a great film", "we saw"))
    assert example["input_ids"] == prompt[:-1] + completion[1:]
    assert example["labels"] == [IGNORE] * (len(prompt) - 1) + completion[1:]
    assert task.count(example) == len(completion) - 1


def test_prompts_to_predict_are_open_and_leave_room():
    """A prompt without its completion has no end, and its last pieces are kept where positions run out."""
    rows = {"prompt": "a great film was it", "completion": "x"}
    task = CausalLM(max_new_tokens=60).learn(table([rows]))
    whole = TOKENIZER(rows["prompt"])["input_ids"][:-1]
    given = task.table([rows["prompt"]])
    assert task.encode(given, TOKENIZER, longest=100, labelled=False).examples[0]["input_ids"] == whole
    cut = task.encode(given, TOKENIZER, longest=64, labelled=False)
    assert cut.examples[0]["input_ids"] == whole[-4:]
    assert "1 of 1 rows were longer than 4 pieces" in cut.notices[0]
    assert "labels" not in cut.examples[0]


def test_a_long_row_loses_the_front_of_its_prompt_first():
    """The completion stays as long as it fits; only then its end goes, and one piece of the prompt is left."""
    rows = {"prompt": "the a film it was and we", "completion": "saw that story"}
    prompt, completion = (TOKENIZER(text)["input_ids"] for text in rows.values())
    made = encoded(CausalLM(max_length=6), rows)
    assert made.examples[0]["input_ids"] == prompt[-3:-1] + completion[1:]
    assert "cut" in made.notices[0]
    assert encoded(CausalLM(max_length=4), rows).examples[0]["labels"] == [IGNORE, *completion[1:-1]]


def test_batches_are_padded_on_the_right():
    """Whatever side the tokenizer pads on: a forward counts positions from the first column."""
    task = CausalLM()
    examples = encoded(task, {"text": "a great film"}, {"text": "we"}).examples
    batch = task.collate(examples, TOKENIZER)
    assert batch.inputs["attention_mask"].tolist()[1] == [1, 1, 1, 0, 0]
    assert batch.labels is not None
    assert batch.labels.tolist()[1] == [*examples[1]["input_ids"], IGNORE, IGNORE]
    assert task.collate([{k: v for k, v in e.items() if k != "labels"} for e in examples], TOKENIZER).labels is None


def test_the_loss_is_transformers_own_as_a_sum():
    """Shifted by one, without padding and prompts; transformers gives the mean of the same numbers."""
    model, task = language_model("gpt2"), CausalLM()
    rows = [{"prompt": "a great film", "completion": "we saw"}, {"prompt": "we", "completion": "it was slowly"}]
    examples = encoded(task, *rows).examples
    batch = task.collate(examples, TOKENIZER)
    assert batch.labels is not None
    with torch.no_grad():
        output = model(**batch.inputs, labels=batch.labels)
    items = sum(map(task.count, examples))
    torch.testing.assert_close(task.loss(output.logits, batch.labels) / items, output.loss)
    smooth = task.loss(output.logits, batch.labels, label_smoothing=0.1)
    kept = batch.labels[:, 1:] != IGNORE
    wanted = F.cross_entropy(
        output.logits[:, :-1][kept], batch.labels[:, 1:][kept], reduction="sum", label_smoothing=0.1
    )
    torch.testing.assert_close(smooth, wanted)


def test_padding_changes_no_loss():
    """Law 9: a row has the same loss alone and beside a longer one."""
    model, task = language_model("llama"), CausalLM()
    examples = encoded(task, {"text": "we saw it"}, {"text": "the a film it was and we saw that story"}).examples
    with torch.no_grad():
        parts = []
        for some in ([examples[0]], [examples[1]], examples):
            batch = task.collate(some, TOKENIZER)
            assert batch.labels is not None
            parts.append(float(task.loss(model(**batch.inputs).logits, batch.labels)))
    assert parts[0] + parts[1] == pytest.approx(parts[2], abs=1e-4)


def test_what_is_kept_of_logits_is_the_foretold_pieces():
    """Answers and references are pieces by number, one for each that is learnt."""
    task = CausalLM()
    examples = encoded(
        task, {"prompt": "a film", "completion": "we saw"}, {"prompt": "we", "completion": "it"}
    ).examples
    batch = task.collate(examples, TOKENIZER)
    assert batch.labels is not None
    perfect = F.one_hot(F.pad(batch.inputs["input_ids"][:, 1:], (0, 1)), 200).float()
    kept = task.split(perfect, examples)
    assert [array.shape for array in kept] == [(3,), (2,)]
    assert all(array.dtype == np.float32 for array in kept)
    assert task.answers(kept, examples) == task.references(examples)
    assert task.references(examples)[1] == [str(piece) for piece in examples[1]["labels"][-2:]]


def test_written_pieces_become_text():
    """The prompt is left out, and so are special pieces."""
    task = CausalLM()
    prompt, new = TOKENIZER("a film")["input_ids"], TOKENIZER("we saw")["input_ids"]
    assert task.written([0, 0, *prompt[:-1], *new[1:], 0], 2 + len(prompt) - 1, TOKENIZER) == "we saw"


def test_there_are_no_classes():
    """Labels, class weights, counts and probabilities are refused; a split has no strata."""
    task = CausalLM()
    with pytest.raises(ConfigError, match="no labels"):
        CausalLM(labels=("a", "b"))
    for call in (lambda: task.class_counts([]), lambda: task.probabilities([], [])):
        with pytest.raises(ConfigError, match="no classes"):
            call()
    with pytest.raises(ConfigError, match="no classes"):
        task.loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64), class_weight=torch.ones(3))
    assert task.strata(table([{"text": "a"}])) is None
    assert task.model_config() == {}


@pytest.mark.parametrize("value", [None, float("nan"), 3, "", "  "])
@pytest.mark.parametrize("column", ["prompt", "completion"])
def test_a_bad_text_is_named_with_its_row(column, value):
    """Missing, no string, empty: with the place and the column."""
    good = {"prompt": "a film", "completion": "we saw"}
    with pytest.raises(DataError, match=rf"train.csv, line 3: the text in column '{column}'"):
        encoded(CausalLM(), good, {**good, column: value})


def test_what_cannot_be_encoded_is_refused():
    """No pad token, a task that has learnt nothing, lengths above the positions, knobs out of range."""
    rows = table([{"text": "a film"}])
    bare = tiny.tokenizer("gpt2")
    bare.pad_token = None
    with pytest.raises(BackboneError, match="no pad token"):
        CausalLM().learn(rows).encode(rows, bare, longest=64, labelled=True)
    with pytest.raises(ConfigError, match="has not learnt"):
        CausalLM().encode(rows, TOKENIZER, longest=64, labelled=True)
    with pytest.raises(ConfigError, match="64 positions"):
        encoded(CausalLM(max_length=65), {"text": "a film"})
    with pytest.raises(ConfigError, match="max_new_tokens"):
        CausalLM(max_new_tokens=0)
    with pytest.raises(DataError, match="A single str"):
        CausalLM().learn(rows).table("a film")
    with pytest.raises(DataError, match="no rows"):
        CausalLM().learn(table([], "text"))
