"""Translation and summarization: columns, languages, tokenizers of many languages, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import MBart50Tokenizer, MBartTokenizer, NllbTokenizer

from petune import AdaptedModel, CausalLM, Summarization, TrainConfig, Translation, Tuner
from petune.errors import ConfigError, DataError
from tests import tiny
from tests.language import language_model
from tests.tasks.tables import reread, table

PAIRS = [{"translation": {"en": "good day", "fr": "bonjour"}}, {"translation": {"en": "day", "fr": "jour"}}]
VOCABULARY = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>", "▁good", "▁day", "▁bonjour", "▁")]
VOCABULARY += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]


def many(kind: str) -> Any:
    """A tiny tokenizer of a model of many languages."""
    if kind == "nllb":
        return NllbTokenizer(vocab={piece: number for number, (piece, _) in enumerate(VOCABULARY)}, merges=[])
    return (MBartTokenizer if kind == "mbart" else MBart50Tokenizer)(vocab=VOCABULARY)


def test_the_hubs_column_holds_both_languages():
    """The codes name the keys; a column for each language, or plain sources and targets, will do as well."""
    task = Translation(source_language="en", target_language="fr")
    learnt = task.learn(table(PAIRS))
    assert (learnt.source, learnt.target) == ("en", "fr")
    assert reread(learnt) == learnt
    apart = [row["translation"] for row in PAIRS]
    assert task.learn(table(apart)) == learnt
    plain = Translation().learn(table([{"source": "good day", "target": "bonjour"}]))
    assert (plain.source, plain.target) == ("source", "target")
    reads = tiny.tokenizer("t5")
    made = [learnt.encode(data, reads, longest=64, labelled=True).examples for data in (table(PAIRS), table(apart))]
    assert made[0] == made[1] and made[0][0]["_truth"] == "bonjour"
    asked = [learnt.encode(learnt.table(rows), reads, longest=64, labelled=False).examples[0]["input_ids"]
             for rows in (["good day"], PAIRS[:1], [{"translation": {"en": "good day"}}])]  # fmt: skip
    assert asked == [made[0][0]["input_ids"]] * 3


def test_a_csv_file_holds_both_languages_as_json():
    """The column of the hub, written as text, is read as if it held mappings; a plain text stays what it is."""
    task = Translation(source_language="en", target_language="fr")
    written = table([{"translation": json.dumps(row["translation"])} for row in PAIRS])
    assert task.learn(written) == task.learn(table(PAIRS))
    assert task.unfolded(written).rows == [row["translation"] for row in PAIRS]
    plain = table([{"en": "good day", "translation": "{bonjour}"}])
    assert task.unfolded(plain) is plain


def test_what_is_no_pair_is_refused():
    """Which languages there are, and the row."""
    with pytest.raises(DataError, match=r"keeps both texts in the column 'translation'.*'en', 'fr'.*source_language"):
        Translation().learn(table(PAIRS))
    with pytest.raises(DataError, match=r"has no language 'fx'.*'en', 'fr'.*Did you mean 'fr'"):
        Translation(source_language="en", target_language="fx").learn(table(PAIRS))
    with pytest.raises(DataError, match=r"line 2: the column 'translation' has no language 'eng'.*Did you mean 'en'"):
        Translation(source_language="eng", target_language="fr").learn(table(PAIRS))
    task = Translation(source_language="en", target_language="fr")
    with pytest.raises(DataError, match=r"line 3: the column 'translation' holds None"):
        task.learn(table([*PAIRS[:1], {"translation": None}]))
    with pytest.raises(ConfigError, match="One language was named"):
        Translation(source_language="en")
    for empty, words in (({"en": "", "fr": "a"}, "line 3: the text in column 'en' is empty"),
                         ({"en": "a", "fr": " "}, "line 3: the text in column 'fr' is empty"),
                         ({"en": "a"}, "line 3: the text in column 'fr' is missing")):  # fmt: skip
        data = table([*PAIRS[:1], {"translation": empty}])
        with pytest.raises(DataError, match=words):
            task.learn(data).encode(data, tiny.tokenizer("t5"), longest=64, labelled=True)


@pytest.mark.parametrize(
    ("kind", "codes", "option"),
    [
        ("mbart", ("en_XX", "fr_XX"), "decoder_start_token_id"),
        ("mbart50", ("en_XX", "fr_XX"), "forced_bos_token_id"),
        ("nllb", ("eng_Latn", "fra_Latn"), "forced_bos_token_id"),
    ],
)
def test_languages_are_marked(kind, codes, option):
    """What is read bears the source's piece, what is written the target's; the tokenizer is as it was afterwards."""
    reads = many(kind)
    before = reads.src_lang, reads.tgt_lang, reads("good day")["input_ids"]
    task = Translation(source="a", target="b", source_language=codes[0], target_language=codes[1])
    data = table([{"a": "good day", "b": "bonjour"}])
    (example,) = task.encode(data, reads, longest=64, labelled=True).examples
    source, target = (reads.convert_tokens_to_ids(code) for code in codes)
    assert source in (example["input_ids"][0], example["input_ids"][-1])
    assert target in (example["labels"][0], example["labels"][-1])
    assert example["labels"].count(reads.eos_token_id) == 1
    assert task.decoding(reads) == {"eos_token_id": [reads.eos_token_id], option: target}
    assert (reads.src_lang, reads.tgt_lang, reads("good day")["input_ids"]) == before
    cut = task.encode(table([{"a": "good day", "b": "bonjour " * 9}]), reads, longest=6, labelled=True).examples[0]
    assert len(cut["labels"]) == 6 and target in (cut["labels"][0], cut["labels"][-1])
    with pytest.raises(ConfigError, match="marks languages, and none was named"):
        Translation(source="a", target="b").encode(data, reads, longest=64, labelled=True)
    wrong = Translation(source="a", target="b", source_language=codes[0], target_language=codes[1][:-1])
    with pytest.raises(ConfigError, match=f"knows no language '{codes[1][:-1]}'.*'{codes[1]}'"):
        wrong.encode(data, reads, longest=64, labelled=True)


def test_a_translation_begins_in_its_language(tmp_path):
    """A tiny mBART writes its first piece as the language says, also after the adapter was loaded."""
    reads = many("mbart50")
    model = language_model("mbart", vocab_size=len(reads), pad_token_id=1, eos_token_id=2, bos_token_id=0)
    task = Translation(source_language="en_XX", target_language="fr_XX", max_new_tokens=5)
    rows = [{"en_XX": "good day", "fr_XX": "bonjour"}] * 4

    tuner = Tuner(model, task=task, tokenizer=reads).fit(rows, config=TrainConfig(epochs=1, progress="off"))
    inputs = reads(["good day"], return_tensors="pt")
    options = {"max_new_tokens": 5, "forced_bos_token_id": reads.lang_code_to_id["fr_XX"]}

    ids = AdaptedModel(model, tokenizer=reads).add("a", tuner).generate(route="a", **inputs, **options)
    said = tuner.predict(["good day"])
    assert said == reads.batch_decode(ids, skip_special_tokens=True)
    assert int(ids[0, 1]) == options["forced_bos_token_id"]
    tuner.save(tmp_path)
    assert Tuner.load(tmp_path, backbone=model).predict(["good day"]) == said


def test_summaries_are_pairs_by_other_names():
    """The thin task: its columns and its scores."""
    learnt = Summarization().learn(table([{"article": "it was", "highlights": "was", "id": 1}]))
    assert (learnt.source, learnt.target) == ("article", "highlights")
    assert Summarization().text_metrics()[0] == "rouge"
    assert Translation().text_metrics()[0] == "bleu"


@pytest.mark.parametrize(("family", "most"), [("marian", 64), ("gpt2", 64)])
def test_more_pieces_than_positions_are_refused_before_training(family, most):
    """No row is read before that is told; an encoder-decoder has all its positions for what it writes."""
    task = Translation(max_new_tokens=most + 1)
    if family == "gpt2":
        task = CausalLM(max_new_tokens=most + 1)
    tuner = Tuner(language_model(family), task=task, tokenizer=tiny.tokenizer(family))
    with pytest.raises(ConfigError, match=f"={most + 1} is out of range.*{most} or less.*no more positions"):
        tuner.fit("no-such-file.csv")
