"""Seq2SeqLM: columns, sources and targets, the loss, and what is refused."""

from __future__ import annotations

import pytest
import torch

from petune.errors import BackboneError, ConfigError, DataError
from petune.model.backbone import Backbone
from petune.model.shell import Shell
from petune.tasks.base import IGNORE
from petune.tasks.seq2seq_lm import Seq2SeqLM
from tests import tiny
from tests.language import PAIRED, language_model
from tests.tasks.tables import reread, table

ROWS = table([{"source": "a great film", "target": "we saw"}, {"source": "we", "target": "it was slowly"}])


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("source", "target"), ("source", "target")),
        (("id", "article", "highlights"), ("article", "highlights")),
        (("Text", "Summary"), ("Text", "Summary")),
    ],
)
def test_columns_are_found_by_their_usual_names(columns, found):
    """Translation's and summarisation's usual names."""
    learnt = Seq2SeqLM().learn(table([dict.fromkeys(columns, "a film")]))
    assert (learnt.source, learnt.target) == found
    assert len(learnt.chosen(Seq2SeqLM())) == 2
    assert reread(learnt) == learnt


@pytest.mark.parametrize("family", PAIRED)
def test_sources_and_targets_are_the_tokenizers(family):
    """Both as the tokenizer makes them; a prefix stands before every source."""
    tokenizer = tiny.tokenizer(family)
    task = Seq2SeqLM(prefix="the ").learn(ROWS)
    examples = task.encode(ROWS, tokenizer, longest=64, labelled=True).examples
    assert [e["input_ids"] for e in examples] == tokenizer(["the a great film", "the we"])["input_ids"]
    assert [e["labels"] for e in examples] == tokenizer(["we saw", "it was slowly"])["input_ids"]
    assert task.count(examples[0]) == 4
    given = task.encode(task.table(["we"]), tokenizer, longest=64, labelled=False).examples[0]
    assert given["input_ids"] == tokenizer("the we")["input_ids"]
    assert "labels" not in given


def test_long_sources_and_targets_are_cut_and_counted():
    """Each on its own, at their ends."""
    tokenizer = tiny.tokenizer("t5")
    made = Seq2SeqLM(max_length=4).learn(ROWS).encode(ROWS, tokenizer, longest=64, labelled=True)
    assert [len(example["input_ids"]) for example in made.examples] == [4, 3]
    assert [len(example["labels"]) for example in made.examples] == [4, 4]
    assert len(made.notices) == 2
    assert made.notices[1].startswith("Targets in train.csv: 1 of 2 rows")


@pytest.mark.parametrize("family", PAIRED)
@torch.no_grad()
def test_the_loss_is_transformers_own_as_a_sum(family):
    """The decoder reads the targets shifted, as the model itself shifts them; padding of targets is not learnt."""
    model, tokenizer, task = language_model(family), tiny.tokenizer(family), Seq2SeqLM().learn(ROWS)
    examples = task.encode(ROWS, tokenizer, longest=64, labelled=True).examples
    batch = task.collate(examples, tokenizer)
    assert batch.labels is not None
    assert int((batch.labels == IGNORE).sum()) > 0
    plain = {name: tensor for name, tensor in batch.inputs.items() if name != "decoder_labels"}
    wanted = model(**plain, labels=batch.labels).loss
    shell = Shell(Backbone.open(model), task.auto_class, task.model_config())
    logits = shell.model(**shell.inputs(batch.inputs)).logits
    items = sum(map(task.count, examples))
    torch.testing.assert_close(task.loss(logits, batch.labels) / items, wanted)
    # Law 9: each row alone has the same loss.
    alone = 0.0
    for example in examples:
        one = task.collate([example], tokenizer)
        assert one.labels is not None
        alone += float(task.loss(shell.model(**shell.inputs(one.inputs)).logits, one.labels))
    assert alone == pytest.approx(float(task.loss(logits, batch.labels)), abs=1e-3)
    kept = task.split(logits, examples)
    assert [len(row) for row in task.answers(kept, examples)] == [len(row) for row in task.references(examples)]


def test_written_pieces_become_text():
    """The decoder's start is a special piece, and no prompt stands before what was written."""
    tokenizer = tiny.tokenizer("t5")
    assert Seq2SeqLM().written([0, *tokenizer("we saw")["input_ids"], 0], 7, tokenizer) == "we saw"


def test_what_cannot_be_encoded_is_refused():
    """Bad texts with their row, no pad token, a task that has learnt nothing, a column that is not there."""
    tokenizer = tiny.tokenizer("t5")
    for column in ("source", "target"):
        rows = table([ROWS.rows[0], {**ROWS.rows[1], column: ""}])
        with pytest.raises(DataError, match=rf"line 3: the text in column '{column}' is empty"):
            Seq2SeqLM().learn(rows).encode(rows, tokenizer, longest=64, labelled=True)
    with pytest.raises(ConfigError, match="has not learnt"):
        Seq2SeqLM().encode(ROWS, tokenizer, longest=64, labelled=True)
    tokenizer.pad_token = None
    with pytest.raises(BackboneError, match="no pad token"):
        Seq2SeqLM().learn(ROWS).encode(ROWS, tokenizer, longest=64, labelled=True)
    with pytest.raises(DataError, match=r"no column 'targets'.*Did you mean 'target'"):
        Seq2SeqLM(target="targets").learn(ROWS)
