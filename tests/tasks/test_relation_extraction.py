"""Relation extraction: the forms in which entities are marked, the markers, what is read, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from petune import AdaptedModel, TrainConfig
from petune.data.sources import read
from petune.errors import BackboneError, ConfigError, DataError, MergeError
from petune.model.learner import Learner
from petune.model.own_rows import OWN_ROWS
from petune.tasks.base import MARKERS
from petune.tasks.relation_extraction import RelationExtraction
from tests import tiny
from tests.kinds.relation import asked, rows
from tests.tasks.tables import reread, table
from tests.tuners import QUIET, TOKENIZER, fresh, refused

E1, NOT_E1, E2, NOT_E2 = (MARKERS - index for index in range(4))
SPANS = {"text": "anna saw oslo", "head": (0, 4), "tail": (9, 13)}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pairs": (SPANS, {}),
    "dicts": ({**SPANS, "head": {"start": 0, "end": 4}, "tail": {"pos": [9, 13]}}, {}),
    "written": ({**SPANS, "head": "[0, 4]", "tail": "(9, 13)"}, {}),
    "written dicts": ({**SPANS, "head": '{"start": 0, "end": 4}', "tail": " {'pos': [9, 13]}"}, {}),
    "columns": ({"text": "anna saw oslo", "e1_start": 0, "e1_end": 4, "e2_start": "9", "e2_end": 13.0}, {}),
    "words": ({"tokens": ["anna", "saw", "oslo"], "h": [0, 1], "t": [2, 3]}, {}),
    "tacred": ({"token": ["anna", "saw", "oslo"], "subj_start": 0, "subj_end": 0, "obj_start": 2, "obj_end": 2}, {}),
    "inclusive": ({**SPANS, "head": (0, 3), "tail": (9, 12)}, {"inclusive_ends": True}),
    "marked": ({"text": "[E1] anna [/E1] saw [E2]oslo[/E2]"}, {}),
    "semeval": ({"text": "<e1>anna</e1> saw <e2>oslo</e2>"}, {}),
}


def learnt(row: dict[str, Any], **knobs: Any) -> tuple[RelationExtraction, Any]:
    """The task after learning from two rows like this one, and their table."""
    made = table([{**row, "relation": "sees"}, {**row, "relation": "no_relation"}])
    return RelationExtraction(**knobs).learn(made), made


def pieces(row: dict[str, Any], *, longest: int = 64, **knobs: Any) -> list[Any]:
    """What the first row is for the model; markers by their names, other pieces as text."""
    task, made = learnt(row, **knobs)
    ids = task.encode(made, TOKENIZER, longest=longest, labelled=True).examples[0]["input_ids"]
    marks = {E1: "E1", NOT_E1: "/E1", E2: "E2", NOT_E2: "/E2"}
    return [marks.get(piece) or (TOKENIZER.decode([piece]) if piece >= 0 else piece) for piece in ids]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_marks_the_same_pieces(form: str) -> None:
    """Spans of characters or words, in one column or two, TACRED's and SemEval's forms: one text, four markers."""
    row, knobs = FORMS[form]
    assert pieces(row, **knobs) == ["[CLS]", "E1", "anna", "/E1", "saw", "E2", "oslo", "/E2", "[SEP]"]


def test_markers_of_entities_that_touch_or_hold_each_other_are_nested() -> None:
    """One that closes comes before one that opens; the outer entity opens first and closes last."""
    text = "anna saw oslo"
    assert pieces({"text": text, "head": (0, 8), "tail": (0, 4)})[1:6] == ["E1", "E2", "anna", "/E2", "saw"]
    assert pieces({"text": text, "head": (0, 4), "tail": (5, 8)})[3:6] == ["/E1", "E2", "saw"]
    assert pieces({"text": text, "head": (9, 13), "tail": (0, 13)})[1:] == [
        "E2", "anna", "saw", "E1", "oslo", "/E1", "/E2", "[SEP]"
    ]  # fmt: skip


def test_a_piece_in_which_an_entity_begins_belongs_to_it() -> None:
    """A span that cuts a piece takes all of it; one of the rest of a word begins at its second piece."""
    assert pieces({"text": "playing oslo", "head": (4, 6), "tail": (9, 10)})[1:5] == ["play", "E1", "##ing", "/E1"]


def test_a_decoder_reads_the_markers_behind_the_text() -> None:
    """`read_at="end"` repeats the opening markers where they have seen everything."""
    assert pieces(SPANS, read_at="end")[-4:] == ["/E2", "E1", "E2", "[SEP]"]


def test_a_long_text_keeps_the_part_around_its_entities() -> None:
    """It is cut to the limit, on the side where there is more, and that is said; both entities stay."""
    text = "the " * 30 + "anna saw oslo" + " old" * 4
    row = {"text": text, "head": (120, 124), "tail": (129, 133)}
    task, made = learnt(row, max_length=16)
    encoded = task.encode(made, TOKENIZER, longest=64, labelled=True)
    assert [len(example["input_ids"]) for example in encoded.examples] == [16, 16]
    assert all(len(example["token_type_ids"]) == 16 for example in encoded.examples)
    assert "2 of 2 rows were longer than 16 pieces" in encoded.notices[0]
    found = pieces(row, max_length=16)
    assert {"E1", "/E1", "E2", "/E2", "anna", "oslo"} <= set(found)
    assert found[0] == "[CLS]" and found[-1] == "[SEP]" and "old" in found and "the" in found


def test_types_have_markers_of_their_own() -> None:
    """With `typed`, each type of entity opens and closes with pieces of its own; an unseen type is refused."""
    row = {"text": "anna saw oslo", "head": {"start": 0, "end": 4, "type": "PER"}}
    row["tail"] = {"start": 9, "end": 13, "type": "LOC"}
    task, made = learnt(row, typed=True)
    assert (task.types, task.own_rows()) == (("LOC", "PER"), 8)
    ids = task.encode(made, TOKENIZER, longest=64, labelled=True).examples[0]["input_ids"]
    assert [piece for piece in ids if piece < 0] == [MARKERS - 1, MARKERS - 3, MARKERS - 4, MARKERS - 6]
    assert reread(task) == task
    row["tail"] = {**row["tail"], "type": "ORG"}
    words = "line 2|ORG|never seen"
    refused(DataError, words, lambda: task.encode(table([row]), TOKENIZER, longest=64, labelled=False))


BAD = {
    "beyond the text": ({**SPANS, "tail": (9, 99)}, "line 2|'tail' is (9, 99)|13 characters"),
    "the end before the start": ({**SPANS, "head": (4, 0)}, "line 2|'head' is (4, 0)"),
    "no numbers": ({**SPANS, "head": ("a", "b")}, "line 2|'head'|whole numbers"),
    "unreadable": ({**SPANS, "head": "[0, "}, "line 2|'head' is '.0, '"),
    "unhashable": ({**SPANS, "head": "{[0]: 4}"}, "line 2|'head' is '{.0.: 4}'"),
    "no pair": ({**SPANS, "head": 7}, "line 2|'head' is 7|start, end"),
    "white space": ({**SPANS, "head": (4, 5)}, "line 2|'head'|white space"),
    "missing": ({**SPANS, "head": None}, "line 2|missing"),
    "no text": ({**SPANS, "text": " "}, "line 2|text"),
    "one entity": ({"text": "[E1]anna[/E1] saw oslo"}, "line 2|not both"),
    "a mark twice": ({"text": "[E1]anna[/E1] [E1]saw [E2]oslo[/E2]"}, "line 2|twice"),
    "an empty one": ({"text": "[E1] [/E1] saw [E2]oslo[/E2]"}, "line 2|empty"),
    "no marks": ({"text": "anna saw oslo"}, "line 2|marks no entities|Name the columns of the spans|'text'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_meant_is_refused_with_its_line(case: str) -> None:
    """Spans outside of the text, backwards, missing or of nothing, and texts that are marked by halves."""
    row, words = BAD[case]
    words = words.replace("(", r"\(").replace(")", r"\)")
    made = table([{**row, "relation": "sees"}, {**row, "relation": "no_relation"}])
    refused(DataError, words, lambda: RelationExtraction().learn(made).encode(
        made, TOKENIZER, longest=64, labelled=True))  # fmt: skip


def test_entities_further_apart_than_the_limit_are_refused() -> None:
    """Nothing is cut out between them in silence."""
    row = {"text": "anna " + "the " * 20 + "oslo", "head": (0, 4), "tail": (85, 89)}
    task, made = learnt(row, max_length=16)
    refused(DataError, "line 2|22 pieces apart", lambda: task.encode(made, TOKENIZER, longest=64, labelled=True))


def test_knobs_and_columns_that_cannot_be_meant() -> None:
    """A negative class that is no label, columns that are not there, one class alone, types without `typed`."""
    refused(DataError, "neither a column 'subject' nor|subject_start", lambda: learnt(SPANS, head="subject"))
    refused(DataError, "column of the tail was not found", lambda: learnt({"text": "a b", "mine": (0, 1)}, head="mine"))
    refused(ConfigError, "negative='none' is no label", lambda: learnt(SPANS, negative="none"))
    refused(ConfigError, "types=", lambda: RelationExtraction(types=("A",)))
    refused(DataError, "names no types", lambda: learnt(SPANS, typed=True))
    refused(DataError, "single class", lambda: RelationExtraction().learn(table([{**SPANS, "relation": "a"}] * 2)))
    refused(ConfigError, "not learnt", lambda: RelationExtraction().model_config())


def test_the_negative_class_is_left_out_of_the_figures() -> None:
    """By its name, or by the knob; the accuracy counts it."""
    assert learnt(SPANS)[0].default_metrics() == ("relation-f1", "accuracy")
    tuner = fresh(task=RelationExtraction(negative="lives_in"))
    tuner.fit(rows(8), config=TrainConfig(epochs=1, **QUIET))
    figures = tuner.evaluate([row for row in rows(16) if row["relation"] == "lives_in"])
    assert figures["relation_recall"] == 0.0
    assert {"relation_precision", "relation_f1_macro", "accuracy"} <= set(figures)


def test_logits_are_those_of_one_linear_map_of_both_states() -> None:
    """The head is W [h_E1 ; h_E2] + b: the two halves of a map at each piece, read at the two opening markers."""
    tuner = fresh(task=RelationExtraction()).fit(rows(8), config=TrainConfig(epochs=1, **QUIET))
    states: list[torch.Tensor] = []
    part = tuner.adapter.shell.outside["classifier"]
    hook = part.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    said = torch.from_numpy(tuner.predict_proba([asked(row) for row in rows(1)]))
    hook.remove()
    task = tuner.adapter.task
    ids = task.encode(read(rows(1)), TOKENIZER, longest=64, labelled=False).examples[0]["input_ids"]
    both = torch.cat([states[0][0, ids.index(E1)], states[0][0, ids.index(E2)]])
    weight = torch.cat([part.weight[:2], part.weight[2:]], dim=1)  # (C, 2D)
    want = (weight @ both + part.bias[:2] + part.bias[2:]).softmax(-1)
    assert torch.allclose(said[0], want, atol=1e-6)


def test_an_adapter_holds_its_markers_and_nobody_else_reads_them(tmp_path: Any) -> None:
    """They are in the file, the backbone's table keeps its size, and a row without the adapter is an error."""
    tuner = fresh(task=RelationExtraction(), name="rel").fit(rows(16), config=TrainConfig(epochs=2, **QUIET))
    table_before = tuner.backbone.model.get_input_embeddings().weight
    assert table_before.shape[0] == tiny.VOCABULARY
    assert tuner.adapter.head()[f"bert.{OWN_ROWS}.rows"].shape == (4, tiny.WIDTH)
    folder = tuner.save(tmp_path / "rel")
    assert not (folder / "adapter_config.json").exists()
    model = AdaptedModel(tiny.backbone("bert"), tokenizer=TOKENIZER).add("rel", folder)
    other = fresh(name="mood").fit(tiny.rows(8), config=TrainConfig(epochs=1, **QUIET))
    model.add("mood", other)
    texts = [asked(row) for row in rows(3)]
    mixed = model.predict([*texts, "a great film"], adapters=["rel"] * 3 + ["mood"])
    assert mixed == [*tuner.predict(texts), *other.predict(["a great film"])]
    task = tuner.adapter.task
    inputs = task.collate(task.encode(read(rows(2)), TOKENIZER, longest=64, labelled=False).examples, TOKENIZER).inputs
    for route in ("mood", None, ["rel", "mood"]):
        with pytest.raises(IndexError):
            model(**inputs, route=route)
    for work in (tuner.merge, tuner.merged_copy):
        refused(MergeError, "'rel' has rows|never resized", work)


def test_full_fine_tuning_is_refused() -> None:
    """It writes a plain transformers model, which has no room for markers."""
    tuner = fresh(task=RelationExtraction(), method="full")
    refused(BackboneError, "pieces of its own", lambda: tuner.fit(rows(8), config=TrainConfig(epochs=1, **QUIET)))


def test_a_trunk_is_no_trunk_below_markers() -> None:
    """Markers learn before the first block, so no block's output is the same in every epoch, even for a head alone."""
    tuner = fresh(task=RelationExtraction(), method="head")
    tuner.fit(rows(8), config=TrainConfig(epochs=2, cache_trunk="auto", **QUIET))
    assert Learner(tuner._bank, tuner.adapter).lowest_block == 0


def test_pairs_of_one_text_are_no_contradiction(caplog: pytest.LogCaptureFixture) -> None:
    """One text may hold several pairs; only the same pair with another relation is told of."""
    both = [{**SPANS, "relation": "sees"}, {**SPANS, "head": (9, 13), "tail": (0, 4), "relation": "no_relation"}]
    fresh(task=RelationExtraction()).fit(both, config=TrainConfig(epochs=1, **QUIET))
    assert "other labels" not in caplog.text
    fresh(task=RelationExtraction()).fit(
        [*both, {**SPANS, "relation": "no_relation"}], config=TrainConfig(epochs=1, **QUIET)
    )
    assert "other labels" in caplog.text
