"""The code on a model card runs as it stands, whatever the task, and gives what the adapter gives."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from petune import SequenceClassification, TrainConfig, Tuner
from petune.storage.card import card
from petune.storage.snippets import pipeline, snippets
from petune.storage.stored import Stored
from petune.tasks.causal_lm import CausalLM
from petune.tasks.seq2seq_lm import Seq2SeqLM
from tests import tiny
from tests.language import language_model
from tests.storage import making
from tests.tuners import QUIET

PAIRS = [{"one": row["text"], "two": row["text"], "label": row["label"]} for row in tiny.rows(8)]
PROMPTS = [{"prompt": row["text"], "completion": row["label"]} for row in tiny.rows(8)]
SOURCES = [{"source": row["text"], "target": row["label"]} for row in tiny.rows(8)]
CASES = {
    "labels": ("bert", "sequence-classification", "lora", tiny.rows(8)),
    "pairs": ("bert", SequenceClassification(text="one", text_pair="two"), "adalora", PAIRS),
    "tags": ("roberta", "token-classification", "lora", tiny.tag_rows(8)),
    "numbers": ("bert", SequenceClassification(problem_type="regression"), "bottleneck", tiny.score_rows(8)),
    "full": ("bert", "sequence-classification", "full", tiny.rows(8)),
    "writing": ("llama", CausalLM(max_new_tokens=2), "lora", PROMPTS),
    "turning": ("t5", Seq2SeqLM(max_new_tokens=2), "lora", SOURCES),
}


@pytest.mark.filterwarnings(making.PEFT_WARNS)
@pytest.mark.parametrize("case", CASES)
def test_the_code_of_a_card_runs(case, tmp_path, monkeypatch, capsys):
    """petune's, peft's and transformers' lines run, and the last two have the adapter's own answers."""
    family, task, method, rows = CASES[case]
    writes = not isinstance(task, str) and task.generates
    model = language_model(family) if writes else None
    base = tmp_path / "base"
    if model is None:
        tiny.folder(family, tmp_path).rename(base)
    else:
        model.save_pretrained(base)
        tiny.tokenizer(family).save_pretrained(base)
    tuner = Tuner(base, task=task, method=method).fit(rows, config=TrainConfig(epochs=1, **QUIET))
    folder = tuner.save(tmp_path / "adapter")
    stored_card = (folder / "README.md").read_text("utf-8") if method != "full" else _card_of_full(folder)
    monkeypatch.chdir(folder)
    blocks = dict(re.findall(r"With (\w+):\n\n```python\n(.*?)```", stored_card, re.DOTALL))
    assert blocks.keys() == {
        "labels": {"petune", "peft", "transformers"}, "pairs": {"petune", "peft", "transformers"},
        "tags": {"petune", "peft", "transformers"}, "numbers": {"petune"}, "full": {"petune", "transformers"},
        "writing": {"petune", "peft", "transformers"}, "turning": {"petune", "peft", "transformers"},
    }[case]  # fmt: skip
    asked = tuner.tokenizer("a great film", return_tensors="pt")
    for name, code in blocks.items():
        space: dict = {}
        exec(code.replace("path/of/the/backbone", str(base)), space)
        if name != "petune" and not writes:
            expected = tuner.predict(["a great film"]) if case != "pairs" else None
            with torch.no_grad():
                logits = space["model"].eval()(**asked).logits[0].numpy()
            if case in ("labels", "full"):
                assert [tuner.classes_[int(np.argmax(logits))]] == expected
    assert capsys.readouterr().out


def _card_of_full(folder) -> str:
    """A full fine-tuning's folder is a plain transformers folder without a card; its code is in the report."""
    from petune.storage import strict_json

    return card(Stored(strict_json.loads((folder / "petune.json").read_bytes(), source="petune.json")))


def test_names_are_quoted():
    """A folder whose name holds a quote stays a string."""
    codes = [made.code for made in snippets(making.small(), 'a"b\\c')]
    assert len(codes) == 3
    for code in codes:
        assert compile(code, "card", "exec") and 'a\\"b\\\\c' in code


@pytest.mark.parametrize(
    ("auto_class", "name"),
    [
        ("AutoModelForSequenceClassification", "text-classification"), ("AutoModelForCausalLM", "text-generation"),
        ("AutoModelForImageClassification", "image-classification"), ("AutoModelForMaskedLM", "fill-mask"),
        ("AutoModelForQuestionAnswering", "question-answering"), ("AutoModelForMultipleChoice", "multiple-choice"),
    ],
)  # fmt: skip
def test_the_hubs_name_follows_from_the_class(auto_class, name, monkeypatch):
    """No task is listed anywhere: what transformers calls its class decides."""
    made = type("Own", (), {"auto_class": auto_class, "__init__": lambda self, **knobs: None})
    monkeypatch.setattr("petune.storage.snippets.lookup.find", lambda room, word: made)
    assert pipeline(making.small()) == name
